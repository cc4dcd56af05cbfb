# A supercomputer site: SSH, MUNGE, Slurm, Apptainer, gocryptfs. Context: docker/sandbox/.
# Run with: --init --cap-add SYS_ADMIN --device /dev/fuse --security-opt seccomp=unconfined --security-opt systempaths=unconfined
FROM debian:sid-slim
# sid's Release files expire within days, and an image is built against whatever mirror is at hand.
RUN apt-get -qq -o Acquire::Check-Valid-Until=false update \
 && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
      apptainer ca-certificates fuse3 gocryptfs libstdc++6 munge openssh-server openssh-client openssl procps slurm-wlm squashfuse uidmap util-linux >/dev/null \
 && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* /etc/munge/munge.key
COPY site/slurm.conf site/cgroup.conf /etc/slurm/
COPY site/sshd.conf /etc/ssh/sshd_config.d/site.conf
COPY site/start /usr/local/sbin/site
RUN groupadd -g 462000031 project_462000031 \
 && for user in alice:2001 mallory:2002; do \
      useradd -m -s /bin/bash -u "${user#*:}" -G project_462000031 -K SUB_UID_COUNT=0 -K SUB_GID_COUNT=0 "${user%:*}"; \
    done \
 && chmod 700 /home/alice /home/mallory \
 && install -d -m 755 /etc/ssh/authorized_keys /run/sshd
EXPOSE 22
ENTRYPOINT ["/usr/local/sbin/site"]
CMD ["all"]
