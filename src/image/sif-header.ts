import { randomBytes } from 'node:crypto';

/**
 * A SIF file of ours is these bytes, one SquashFS partition, and JSON that says how the image is run: 128 bytes of global header, a table
 * of 48 descriptors from byte 4096 on, the partition from byte 32768 on (aligned to 4096). All numbers little-endian.
 *
 * @see Singularity Image Format, package `github.com/sylabs/sif/v2/pkg/sif`, types `header` and `rawDescriptor`
 */
export const sifHeaderSize = 32_768;

const descriptorsAt = 4096;
const descriptorSize = 585;
const descriptorCount = 48;
const dataAt = descriptorsAt + descriptorCount * descriptorSize;
const [partitionType, jsonType] = [0x4004, 0x4006];
/** Name of the JSON object in the SIF. */
const configName = 'image.json';

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
  /** Bytes of the JSON behind it. */
  readonly configSize: number;
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

/** The first 32768 bytes of a SIF in which the root file system and the image's configuration follow. Pure but for the default id. */
export function sifHeader({ size, configSize, architecture, created, id = randomUuid() }: SifHeader): Buffer {
  const code = architectures[architecture];
  if (code === undefined) throw new RangeError(`no SIF code for the architecture ${architecture}`);
  const header = Buffer.alloc(sifHeaderSize);
  const seconds = Math.floor(created.getTime() / 1000);
  const end = sifHeaderSize + size + configSize;

  header.write('#!/usr/bin/env run-singularity\n', 0, 'latin1');
  header.write('SIF_MAGIC', 32, 'latin1');
  header.write('01', 42, 'latin1');
  header.write(code, 45, 'latin1');
  header.set(id, 48);
  writeNumbers(header, 64, [
    seconds,
    seconds,
    descriptorCount - 2,
    descriptorCount,
    descriptorsAt,
    dataAt - descriptorsAt,
    dataAt,
    end - dataAt,
  ]);

  const partition = descriptorOf(header, 0);
  partition.writeInt32LE(partitionType, 0);
  partition.writeUInt32LE(0xf0000001, 9); // group 1
  writeNumbers(partition, 17, [sifHeaderSize, size, sifHeaderSize - dataAt + size, seconds, seconds]);
  partition.write('rootfs.squashfs', 73, 'latin1');
  partition.writeInt32LE(1, 201); // SquashFS
  partition.writeInt32LE(2, 205); // the root file system of the primary architecture
  partition.write(code, 209, 'latin1');

  const config = descriptorOf(header, 1);
  config.writeInt32LE(jsonType, 0);
  config.writeUInt32LE(0xf0000000, 9); // no group
  writeNumbers(config, 17, [sifHeaderSize + size, configSize, configSize, seconds, seconds]);
  config.write(configName, 73, 'latin1');

  for (const [index, descriptor] of [partition, config].entries()) {
    descriptor.writeUInt8(1, 4); // in use
    descriptor.writeUInt32LE(index + 1, 5); // its id
  }
  return header;
}

/**
 * Where a SIF of ours has its configuration, by its first 32768 bytes; undefined where it has none. Whether that many bytes are there, the
 * header does not say.
 */
export function configPlace(header: Buffer): { offset: number; size: number } | undefined {
  if (header.length < sifHeaderSize || header.toString('latin1', 32, 41) !== 'SIF_MAGIC') return undefined;
  const config = descriptorOf(header, 1);
  if (config.readInt32LE(0) !== jsonType || config[4] !== 1) return undefined;
  if (config.toString('latin1', 73, 73 + configName.length + 1) !== `${configName}\0`) return undefined;
  return { offset: Number(config.readBigInt64LE(17)), size: Number(config.readBigInt64LE(25)) };
}

function descriptorOf(header: Buffer, index: number): Buffer {
  return header.subarray(descriptorsAt + index * descriptorSize, descriptorsAt + (index + 1) * descriptorSize);
}

function writeNumbers(target: Buffer, at: number, numbers: readonly number[]): void {
  for (const [index, value] of numbers.entries()) target.writeBigInt64LE(BigInt(value), at + 8 * index);
}

/** @see RFC 9562, version 4 */
function randomUuid(): Uint8Array {
  const id = randomBytes(16);
  id[6] = ((id[6] ?? 0) & 0x0f) | 0x40;
  id[8] = ((id[8] ?? 0) & 0x3f) | 0x80;
  return id;
}
