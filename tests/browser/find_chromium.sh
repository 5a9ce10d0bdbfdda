#!/bin/sh
# Say where a Chromium is; install one where that is possible; fail where it is not.
for name in "$CHROMIUM" chromium chromium-browser google-chrome; do
    if [ -n "$name" ] && command -v "$name" >/dev/null 2>&1; then
        echo "==> Browser tests use $(command -v "$name")"
        exit 0
    fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "==> Installing chromium for the browser tests"
    if (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium) >/dev/null 2>&1; then
        exit 0
    fi
fi
echo "==> Fetching playwright's chromium for the browser tests"
.venv/bin/python -m playwright install chromium >/dev/null 2>&1
