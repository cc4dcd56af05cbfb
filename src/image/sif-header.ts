import { randomBytes } from 'node:crypto';

/**
 * A SIF file with one SquashFS partition is these bytes and then the partition: 128 bytes of global header, a table of 48
 * descriptors from byte 4096 on, the partition from byte 32768 on (aligned to 4096). All numbers little-endian.
 *
 * @see Singularity Image Format, package `github.com/sylabs/sif/v2/pkg/sif`, types `header` and `rawDescriptor`
 */
export const sifHeaderSize = 32_768;

const descriptorsAt = 4096;
const descriptorSize = 585;
const descriptorCount = 48;
const dataAt = descriptorsAt + descriptorCount * descriptorSize;

/** The codes of CPU architectures in SIF. */
const architectures: Readonly<Record<string, string>> = {
  '386': '01',
  amd64: '02',
  arm: '03',
  arm64: '04',
  ppc64: '05',
  ppc64le: '06',
  mips: '07',
  mipsle: '08',
  mips64: '09',
  mips64le: '10',
  s390x: '11',
  riscv64: '12',
};

/** What the header of a SIF says. */
export interface SifHeader {
  /** Bytes of the SquashFS partition. */
  readonly size: number;
  /** CPU architecture in Go's words, as OCI has it: `amd64`. */
  readonly architecture: string;
  readonly created: Date;
  /** 16 bytes. Random by default. */
  readonly id?: Uint8Array;
}

/** Whether SIF has a code for this CPU architecture. */
export function sifKnows(architecture: string): boolean {
  return architecture in architectures;
}

/** The first 32768 bytes of a SIF whose one partition, the root file system, follows. Pure but for the default id. */
export function sifHeader({ size, architecture, created, id = randomUuid() }: SifHeader): Buffer {
  const code = architectures[architecture];
  if (code === undefined) throw new RangeError(`no SIF code for the architecture ${architecture}`);
  const header = Buffer.alloc(sifHeaderSize);
  const seconds = BigInt(Math.floor(created.getTime() / 1000));

  header.write('#!/usr/bin/env run-singularity\n', 0, 'latin1');
  header.write('SIF_MAGIC', 32, 'latin1');
  header.write('01', 42, 'latin1');
  header.write(code, 45, 'latin1');
  header.set(id, 48);
  const global = [
    seconds,
    seconds,
    descriptorCount - 1,
    descriptorCount,
    descriptorsAt,
    dataAt - descriptorsAt,
    dataAt,
    sifHeaderSize - dataAt + size,
  ];
  for (const [index, value] of global.entries()) header.writeBigInt64LE(BigInt(value), 64 + 8 * index);

  const descriptor = header.subarray(descriptorsAt, dataAt);
  descriptor.writeInt32LE(0x4004, 0); // a partition
  descriptor.writeUInt8(1, 4); // in use
  descriptor.writeUInt32LE(1, 5); // its id
  descriptor.writeUInt32LE(0xf0000001, 9); // group 1
  descriptor.writeUInt32LE(0, 13); // linked to nothing
  const places = [sifHeaderSize, size, sifHeaderSize - dataAt + size, seconds, seconds, 0, 0];
  for (const [index, value] of places.entries()) descriptor.writeBigInt64LE(BigInt(value), 17 + 8 * index);
  descriptor.write('rootfs.squashfs', 73, 'latin1');
  descriptor.writeInt32LE(1, 201); // SquashFS
  descriptor.writeInt32LE(2, 205); // the root file system of the primary architecture
  descriptor.write(code, 209, 'latin1');
  return header;
}

/** @see RFC 9562, version 4 */
function randomUuid(): Uint8Array {
  const id = randomBytes(16);
  id[6] = ((id[6] ?? 0) & 0x0f) | 0x40;
  id[8] = ((id[8] ?? 0) & 0x3f) | 0x80;
  return id;
}
