# The studio in a container, for a CPU or a GPU: docs/deploy.md.
#
#   docker build -t yoso-studio .                              without CUDA, a third of the size
#   docker build -t yoso-studio:gpu --build-arg DEVICE=cuda .
FROM python:3.12-slim-bookworm

ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1

WORKDIR /studio
COPY requirements.txt constraints.txt ./
# PyPI's torch for Linux brings CUDA along, as packages of its own; the one without it is at another address, by the
# same versions. Everything else is installed by its hash.
RUN if [ "$DEVICE" = cpu ]; then \
        grep -E '^(torch|torchvision)==' requirements.txt > /tmp/torch.txt && \
        pip install --no-deps --index-url https://download.pytorch.org/whl/cpu -r /tmp/torch.txt && \
        awk '/^[a-z0-9]/ { skip = /^(torch|torchvision|triton|nvidia-|cuda-)/ } !skip' constraints.txt > /tmp/all.txt; \
    else \
        cp constraints.txt /tmp/all.txt; \
    fi && \
    pip install --no-deps --require-hashes -r /tmp/all.txt && \
    rm -f /tmp/torch.txt /tmp/all.txt

# The code is root's, and the studio runs as somebody who may write to /data alone.
RUN useradd --uid 1000 --home-dir /data --no-create-home studio && install -d -o studio -g studio /data
COPY . .
RUN ln -s /data/converted models/converted && ln -s /data/annotators models/annotators

USER studio
ENV HOST=0.0.0.0 PORT=7860 HOME=/data PYTHONUNBUFFERED=1 \
    HF_HOME=/data/hub YOSO_CACHE=/data/cache GRADIO_TEMP_DIR=/data/temporary \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME /data
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/')"]
ENTRYPOINT ["python", "app.py", "--runs", "/data/runs", "--loras", "/data/loras", "--translators", "/data/translators"]
