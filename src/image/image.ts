import type { ImageConfig } from '../record.ts';
import { connectDocker } from './docker.ts';
import { buildSif } from './sif.ts';
import type { SifCompression } from './squashfs.ts';
import { resolveSource, type PullPolicy } from './source.ts';

export { sifCompressions, type SifCompression } from './squashfs.ts';
export { pullPolicies } from './source.ts';

/** Which image to open as a SIF. */
export interface OpenImageOptions {
  /** As `docker run` takes it. */
  readonly image: string;
  /** `linux/amd64`, … */
  readonly platform: string;
  readonly pull: PullPolicy;
  /** Where the site has to be asked, what it will have said. */
  readonly compression: SifCompression | Promise<SifCompression>;
  /** Value of `--docker-path`; undefined means `DOCKER_HOST` and the Docker client's own rules. */
  readonly dockerPath?: string | undefined;
  readonly env?: NodeJS.ProcessEnv;
  readonly signal?: AbortSignal | undefined;
  readonly progress: (message: string) => void;
}

/** An image as a SIF. Disposing of it frees what was kept for it. */
export interface OpenImage extends AsyncDisposable {
  readonly image: ImageConfig;
  /** The SIF, to be read once. */
  readonly source: AsyncIterable<Uint8Array>;
  /** Bytes of the SIF. */
  readonly total: number;
}

/**
 * From an image's name to the bytes of its SIF: find or pull it, read its layers, add what Apptainer and the job need, make SquashFS
 * of it all, put the SIF header before it.
 *
 * @throws HpcsError `local` or `usage`
 */
export async function openImage(options: OpenImageOptions): Promise<OpenImage> {
  const { image, platform, pull, compression, dockerPath, signal, progress, env = process.env } = options;
  // Should something else fail before it is waited for, that is the error to tell.
  Promise.resolve(compression).catch(() => undefined);
  const docker = await connectDocker({ address: dockerPath, env, signal });
  const source = await resolveSource(docker, { image, platform, pull, env, signal, progress });
  const sif = await buildSif({ docker, source, compression, signal, progress });
  return { image: source.config, source: sif.bytes, total: sif.size, [Symbol.asyncDispose]: () => sif[Symbol.asyncDispose]() };
}
