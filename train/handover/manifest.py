"""The list of everything in models/: size, SHA-256 and licence of each file, so that a change never goes unseen.

    python -m train.handover.manifest

writes ``models/manifest.json``; the tests compare it with the files.
"""

import argparse
import hashlib
import json
from pathlib import Path

from yoso_core.models import MODELS_FOLDER

TOTAL_LIMIT = 64_000_000  # bytes, so that a clone stays small
FILE_LIMIT = 10_000_000  # bytes; from here on a Space needs git LFS
LICENCE = "Apache-2.0; trained on art under MIT, Apache-2.0 and CC-BY-4.0, see NOTICE"
LICENCES = dict.fromkeys(("controlnet-emoji", "evaluator", "loras", "next", "translators", "yoso-emoji"), LICENCE)


def manifest(folder: Path = MODELS_FOLDER) -> dict[str, dict]:
    """File name relative to `folder` -> size in bytes, sha256, licence."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] in LICENCES:
            data = path.read_bytes()
            found[str(name)] = {
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "licence": LICENCES[name.parts[0]],
            }
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    listing = manifest()
    (MODELS_FOLDER / "manifest.json").write_text(json.dumps(listing, indent=1) + "\n")
    print(f"{len(listing)} files, {sum(entry['bytes'] for entry in listing.values()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
