"""What the original does with a dataset, step by step: an archive compressed by gzip, read whole, encrypted by age, written, read
whole once more for its SHA-512, and copied by paramiko.

original.py SOURCE WORKDIR RECIPIENT HOST PORT USER KEY KNOWN_HOSTS TARGET
"""
import hashlib
import os
import subprocess
import sys
import tarfile

import paramiko

source, workdir, recipient, host, port, user, key, known_hosts, target = sys.argv[1:]
archive = os.path.join(workdir, "data.tgz")
with tarfile.open(archive, "w:gz") as tar:
    tar.add(source, arcname=os.path.basename(source))
with open(archive, "rb") as file:
    plain = file.read()
sealed = subprocess.run(["age", "-r", recipient], input=plain, stdout=subprocess.PIPE, check=True).stdout
encrypted = os.path.join(workdir, "data.tgz.age")
with open(encrypted, "wb") as file:
    file.write(sealed)
with open(encrypted, "rb") as file:
    print(hashlib.sha512(file.read()).hexdigest())
client = paramiko.SSHClient()
client.load_host_keys(known_hosts)
client.connect(host, port=int(port), username=user, key_filename=key, allow_agent=False, look_for_keys=False)
with client.open_sftp() as sftp:
    sftp.put(encrypted, target)
client.close()
