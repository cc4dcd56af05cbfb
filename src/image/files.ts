import { json } from 'node:stream/consumers';
import type Docker from 'dockerode';
import type { Bytes } from '../seal/bytes.ts';
import { BuildKitError, receiveImage } from './buildkit.ts';
import { dial, dockerError, isLocal } from './docker.ts';
import { readImage } from './layers.ts';
import type { SourceImage } from './source.ts';
import type { FileTree } from './tree.ts';

/** What reading an image needs. */
export interface ReadOptions<Content> {
  readonly docker: Docker;
  readonly source: SourceImage;
  /** Takes the content of a file; it may be given some that are not in the tree. */
  readonly keep: (size: number, body: Bytes) => Promise<Content>;
  readonly signal: AbortSignal;
  readonly progress: (message: string) => void;
}

/**
 * Reads the file system of an image: as the build service of an engine on this machine sends it, or else, layer by layer, as the engine
 * saves it, which takes longer, but which every engine does.
 *
 * @throws HpcsError `local`
 */
export async function readFiles<Content>(options: ReadOptions<Content>): Promise<FileTree<Content>> {
  const { docker, source, keep, signal, progress } = options;
  // From an engine elsewhere the network takes the time, and no connection need be turned into another on the way.
  if (source.name === undefined || !isLocal(docker)) return await readSaved(options);
  const { name } = source;
  // A name can be given to another image at any time.
  const check = async (): Promise<void> => {
    if ((await idOf(docker, name, signal)) !== source.id) throw new BuildKitError(`${name} is another image now`);
  };
  try {
    return await receiveImage(docker, { name, platform: source.config.platform }, check, keep, signal);
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof BuildKitError)) throw error;
    progress(`the engine has to save the image, as its build service did not send it: ${error.message}`);
    return await readSaved(options);
  }
}

async function idOf(docker: Docker, name: string, signal: AbortSignal): Promise<unknown> {
  const found = await json(await dial(docker, { method: 'GET', path: `/images/${name}/json`, signal }));
  return typeof found === 'object' && found !== null && 'Id' in found ? found.Id : undefined;
}

async function readSaved<Content>({ docker, source, keep, signal }: ReadOptions<Content>): Promise<FileTree<Content>> {
  return await readImage(saved(docker, source.id, signal), keep);
}

/** The archive that `docker save` would write. (dockerode's own call takes no signal.) */
async function* saved(docker: Docker, id: string, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  try {
    yield* await dial(docker, { method: 'GET', path: `/images/${encodeURIComponent(id)}/get`, signal });
  } catch (error) {
    signal.throwIfAborted();
    throw dockerError('cannot read the layers of the image', error);
  }
}
