# What the original's way of making an image takes: Apptainer, age, Python.
FROM debian:sid-slim
RUN apt-get -qq -o Acquire::Check-Valid-Until=false update \
 && apt-get -qq install -y --no-install-recommends age apptainer python3 squashfs-tools >/dev/null \
 && rm -rf /var/lib/apt/lists/* \
 && useradd -m -K SUB_UID_COUNT=0 -K SUB_GID_COUNT=0 -u 1001 builder
COPY image-original.py /
USER builder
