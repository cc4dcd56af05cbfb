import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Config } from './config.ts';
import { HpcsError, systemCode } from './errors.ts';
import type { Meter } from './meter.ts';
import type { Transport } from './site/transport.ts';
import { makeDirectory, sha256 } from './site/files.ts';
import { uploadFile } from './site/upload.ts';

/** One archive with all that a compute node needs: Node, `hpcs-node`, gocryptfs, spire-agent. */
export interface ToolKit {
  /** Path of the archive on this machine. */
  path: string;
  sha256: string;
  /** In bytes. */
  size: number;
}

/** How it is shipped. */
export interface ShippingContext {
  config: Config;
  transport: Transport;
  signal: AbortSignal;
  warn: (line: string) => void;
  meter: (label: string) => Meter;
}

/**
 * The tool kit of this installation: the configuration's `tool-kit`, or the one that lies beside the program, as in the job-prep image.
 *
 * @throws HpcsError `usage` when there is none
 */
export async function localToolKit(config: Config): Promise<ToolKit> {
  const path = config.client['tool-kit'] ?? fileURLToPath(new URL('../tool-kit.tar.gz', import.meta.url));
  try {
    const hash = createHash('sha256');
    let size = 0;
    for await (const part of createReadStream(path, { highWaterMark: 1024 * 1024 }) as AsyncIterable<Buffer>) {
      hash.update(part);
      size += part.length;
    }
    return { path, sha256: hash.digest('hex'), size };
  } catch (error) {
    throw new HpcsError(
      'usage',
      'tool-kit-missing',
      `cannot read the tool kit ${path}: ${systemCode(error) ?? 'unknown error'}`,
      {
        cause: error,
        suggestion: 'set tool-kit in section [client], or make one: hpcs tool-kit build --help',
      },
    );
  }
}

/**
 * Puts the tool kit on the site, once per version: its name holds its digest. The job checks the digest again, on a copy of its own.
 *
 * @returns where it lies there
 */
export async function shipToolKit(kit: ToolKit, directory: string, context: ShippingContext): Promise<string> {
  const { transport, signal } = context;
  const { 'reconnect-limit': patience, 'bandwidth-limit': bandwidth } = context.config.supercomputer;
  const path = `${directory.replace(/\/+$/, '')}/hpcs-tool-kit-${kit.sha256.slice(0, 16)}.tar.gz`;
  if ((await sha256(transport, path, { signal })) === kit.sha256) return path;
  await makeDirectory(transport, directory, { signal });
  using meter = context.meter('shipping the tool kit');
  meter.expect(kit.size);
  await uploadFile(transport, createReadStream(kit.path, { highWaterMark: 256 * 1024 }), path, {
    mode: 0o644,
    replace: true,
    signal,
    patience,
    bandwidth,
    onProgress: meter.update,
    warn: context.warn,
  });
  return path;
}
