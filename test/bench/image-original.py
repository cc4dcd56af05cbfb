"""What the original does with an image that was saved, step by step: a SIF made by Apptainer, read whole, encrypted by age, written, and
read whole once more for its SHA-512.

image-original.py ARCHIVE WORKDIR
"""
import hashlib
import os
import subprocess
import sys

archive, workdir = sys.argv[1:]
sif = os.path.join(workdir, "app.sif")
subprocess.run(["apptainer", "--silent", "build", sif, "docker-archive:" + archive], check=True)
key = subprocess.run(["age-keygen"], capture_output=True, check=True).stdout
recipient = subprocess.run(["age-keygen", "-y"], input=key, capture_output=True, check=True).stdout.decode().strip()
with open(sif, "rb") as file:
    plain = file.read()
sealed = subprocess.run(["age", "-r", recipient], input=plain, stdout=subprocess.PIPE, check=True).stdout
with open(sif + ".age", "wb") as file:
    file.write(sealed)
with open(sif + ".age", "rb") as file:
    print(hashlib.sha512(file.read()).hexdigest())
