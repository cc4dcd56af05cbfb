import { randomBytes } from 'node:crypto';
import { basename, join, posix } from 'node:path';
import { checkReaders, describeReaders } from './access/readers.ts';
import { Catalogue } from './catalogue.ts';
import type { Config } from './config.ts';
import { HpcsError, messageOf } from './errors.ts';
import { accessMode, checkVault, grantSecret, knownReaders, type GrantedSecret, type Readers } from './grant.ts';
import { openIdentity } from './identity/client-identity.ts';
import { Copy } from './keep.ts';
import { Shipped, type Meter } from './meter.ts';
import { renderInfoRecord, type ImageConfig, type InfoRecord, type VaultRecord } from './record.ts';
import type { Compression } from './seal/compress.ts';
import type { SealFormat } from './seal/format.ts';
import { recipientsField, type Recipient } from './seal/recipients.ts';
import { Sealing, type SealSource } from './seal/threads.ts';
import type { Secret } from './secret.ts';
import { openServices } from './services.ts';
import { connect } from './site/connect.ts';
import { beside, makeDirectory, remove } from './site/files.ts';
import type { Transport } from './site/transport.ts';
import { startUpload, type UploadOptions } from './site/upload.ts';
import { stateDirectory } from './state.ts';
import { together } from './together.ts';

/** An artefact to be sealed, shipped and granted. */
export interface Publication {
  kind: 'image' | 'data';
  /**
   * Opens what is to be sealed. Meanwhile connections are made and an identity is got.
   *
   * @param site the connection to the site, once it is made
   */
  open: (site: Promise<Transport>, signal: AbortSignal) => Promise<Content>;
  /** Name of the sealed file. */
  fileName: string;
  /** Directory on the site. */
  directory: string;
  format: SealFormat;
  /** How the stream is compressed. An image is compressed within. */
  compress: Compression;
  /** Who can open it beside the holder of the key in the vault. */
  recipients: readonly Recipient[];
  readers: Readers;
  /** Local directory that keeps a copy of the sealed file, under its name on the site, or beside what has that name there. */
  keep?: string | undefined;
  /** Bytes per second, at most; in place of the configuration's. */
  bandwidth?: number | undefined;
}

/** What is to be sealed. Disposed of when it was, or was not. */
export interface Content extends AsyncDisposable {
  /** Read once. */
  source: SealSource;
  /** Plain bytes in all, for the progress. What fails here ends the publication. */
  total: number | Promise<number>;
  image?: ImageConfig;
}

/** What was published. */
export interface Published {
  path: string;
  info: string;
  sha512: string;
  size: number;
  secretPath: string;
  /** Path of the copy that is kept on this machine. */
  copy?: string;
}

/**
 * Seal and ship in one pass, grant, store the key, publish: in this order, each step on the results of the one before.
 *
 * Nothing is visible on the site before everything up to it succeeded: the file appears by a rename, its info record last.
 * What fails before that takes grant, key and file back. An artefact that is there already is never overwritten: the new one stands
 * beside it, and the info record names the new one.
 */
export async function publish(
  publication: Publication,
  context: {
    config: Config;
    signal: AbortSignal;
    progress: (line: string) => void;
    warning: (line: string) => void;
    meter: (label: string) => Meter;
  },
): Promise<Published> {
  const { config, progress } = context;
  const halt = new AbortController();
  using _halted = { [Symbol.dispose]: () => halt.abort() };
  const signal = AbortSignal.any([context.signal, halt.signal]);
  const catalogue = new Catalogue(await stateDirectory(config));
  checkPlace(publication);
  await using services = await openServices(config);
  const mode = await accessMode(config.identity.mode, services, signal);
  checkReaders(publication.readers, mode);
  let shown: Meter | undefined;
  const shipped = new Shipped((bytes) => shown?.update(bytes));
  const site = Promise.withResolvers<Transport>();
  // Who waits for it, if anybody, has the error from there.
  site.promise.catch(() => undefined);
  await using stack = new AsyncDisposableStack();

  // Whether the key can be stored is known before hours of making and upload, not after.
  const prepare = async (signal: AbortSignal) => {
    const connecting = connect(config, { signal });
    connecting.then(site.resolve, site.reject);
    const transport = stack.use(await connecting);
    await makeDirectory(transport, publication.directory, { signal });
    const identity = stack.use(await openIdentity(config, { signal, progress }));
    const granter = { services, identity, mode, signal, progress, warn: context.warning };
    await checkVault(granter);
    const readers = await knownReaders(publication.readers, config.supercomputer.username, granter);
    return { transport, granter, readers };
  };
  // Sealing begins while connections are made, and waits for them when it is some blocks ahead.
  const seal = async (signal: AbortSignal) => {
    const content = stack.use(await publication.open(site.promise, signal));
    const total = Promise.resolve(content.total);
    total.catch((error: unknown) => halt.abort(error));
    const { sealing, key } = await Sealing.startWithNewKey(content.source, {
      format: publication.format,
      recipients: publication.recipients.map(({ publicKey }) => publicKey),
      compress: publication.compress,
      signal,
      onProgress: shipped.read,
    });
    stack.use(key.secretKey);
    stack.use(sealing);
    return { key, content, total, sealing };
  };
  const [{ transport, granter, readers }, { key, content, total, sealing }] = await together(signal, prepare, seal);

  const wanted = posix.join(publication.directory, publication.fileName);
  const doing = `sealing and shipping ${publication.fileName}`;
  progress(doing);
  using meter = context.meter(doing);
  shown = meter;
  total.then((bytes) => meter.expect(bytes), () => undefined); // prettier-ignore
  const { keep, fileName } = publication;
  const copy = keep === undefined ? undefined : stack.use(await Copy.begin(join(keep, fileName)));
  const careful = { mode: 0o640, signal, patience: config.supercomputer['reconnect-limit'], warn: context.warning };
  // Behind the upload, which the site removes at once: a server that does not answer must not keep it there.
  await using unpublished = new AsyncDisposableStack();
  await using upload = await startUpload(transport, wanted, copy?.of(sealing) ?? sealing, {
    ...careful,
    bandwidth: publication.bandwidth ?? config.supercomputer['bandwidth-limit'],
    memory: sealing,
    onProgress: shipped.arrived,
  });
  await total;
  const { sha512, size } = await sealing.summary;
  meter[Symbol.dispose]();

  progress(`granting ${describeReaders(readers, mode)}`);
  const artefact = randomBytes(16).toString('hex');
  const sealed: SealedArtefact = { artefact, sha512, size, created: new Date().toISOString() };
  const record = vaultRecordOf(publication, sealed, content.image, key.secretKey);
  const grant = await grantSecret(publication.fileName, readers, record, granter, unpublished);

  const suffix = artefact.slice(0, 8);
  const path = await upload.publishBeside(suffix);
  unpublished.defer(() => removeUnnamed(transport, path, context.warning));
  if (path !== wanted) progress(`${wanted} is an earlier artefact and stays; the new one is ${basename(path)}`);
  const info = infoRecordOf(publication, sealed, path, grant, readers.nodes);
  const infoPath = `${wanted}.info.yaml`;
  await publishInfo(transport, infoPath, info, unpublished, careful);
  const published = { path, info: infoPath, sha512, size, secretPath: grant.secretPath };
  return await afterwards(published, {
    // The copy gets its name now: what is not published nobody can open.
    'no copy of it is kept': async () =>
      copy === undefined ? {} : { copy: await copy.nameAs([basename(path), beside(fileName, suffix)]) },
    'it is not remembered here': () =>
      catalogue.add({
        site: config.supercomputer.address,
        info: infoPath,
        artefact,
        secretPath: grant.secretPath,
        sha512,
        created: sealed.created,
      }),
  });
}

/** An artefact as it was sealed, and when. */
interface SealedArtefact {
  /** Its id. */
  artefact: string;
  sha512: string;
  /** Sealed bytes. */
  size: number;
  /** RFC 3339 time. */
  created: string;
}

/** What the vault keeps of an artefact: what its bytes must be, and the key that opens them. */
function vaultRecordOf(
  { kind, format, recipients }: Publication,
  { artefact, sha512, size, created }: SealedArtefact,
  image: ImageConfig | undefined,
  key: Secret,
): Omit<VaultRecord, 'owner'> {
  return {
    artefact,
    kind,
    format,
    sha512,
    size,
    created,
    ...(image === undefined ? {} : { image }),
    ...recipientsField(recipients),
    key: key.reveal(),
  };
}

/** What the site shows of an artefact: where it lies, and which secret opens it. */
function infoRecordOf(
  { kind, format }: Publication,
  { artefact, sha512, size }: SealedArtefact,
  path: string,
  grant: GrantedSecret,
  nodes: readonly string[],
): InfoRecord {
  return {
    path_at_rest: path,
    secret_path: grant.secretPath,
    access_role: grant.role,
    checksum: sha512,
    spiffeID: grant.spiffeId,
    format,
    kind,
    artefact,
    size,
    ...(nodes.length > 0 ? { nodes: [...nodes] } : {}),
  };
}

/**
 * Takes the steps that come when all is published, each whatever becomes of the others.
 *
 * @param steps by what is missing where one fails; each may add to what is told of the publication
 * @throws HpcsError `local`, code `published-only`, for all that failed, with what is published as its result
 */
export async function afterwards(
  published: Published,
  steps: Readonly<Record<string, () => Promise<Partial<Published> | void>>>,
): Promise<Published> {
  let result = published;
  const failures: unknown[] = [];
  const lacks: string[] = [];
  for (const [lack, step] of Object.entries(steps)) {
    try {
      result = { ...result, ...(await step()) };
    } catch (error) {
      failures.push(error);
      lacks.push(`${lack}: ${messageOf(error)}`);
    }
  }
  if (lacks.length === 0) return result;
  throw new HpcsError('local', 'published-only', `${published.path} is published, but ${lacks.join('; ')}`, {
    cause: failures[0],
    result,
    suggestion: `use what is published: its info record is ${published.info}`,
  });
}

/**
 * Publishes the info record, in place of an earlier one.
 *
 * @param unpublished takes back what the record names: no more once that is published, or may be
 */
export async function publishInfo(
  transport: Transport,
  path: string,
  info: InfoRecord,
  unpublished: AsyncDisposableStack,
  options: UploadOptions,
): Promise<void> {
  await using upload = await startUpload(transport, path, [Buffer.from(renderInfoRecord(info))], options);
  try {
    await upload.publish({ replace: true });
  } catch (error) {
    // Where it was not the site that said no, the record may be there, and who takes it needs all that it names.
    // A command that failed without a word may have been ended behind the rename.
    const refused = error instanceof HpcsError && error.code.startsWith('site-') && error.code !== 'site-command-failed';
    if (!refused) {
      unpublished.move();
      options.warn?.(
        `whether ${path} names ${info.path_at_rest} by now is not known: file and key stay; if it does not, remove that file, and destroy the key: hpcs access destroy ${info.secret_path}`,
      );
    }
    throw error;
  }
  unpublished.move();
}

/** Removes a file that no info record names, and to which there is no key. */
async function removeUnnamed(transport: Transport, path: string, warn: (line: string) => void): Promise<void> {
  try {
    await remove(transport, path);
  } catch (error) {
    warn(`${path}, which nobody can open, stays on the site: ${messageOf(error)}`);
  }
}

/** @throws HpcsError `usage` for a place that job-prep, which may start anywhere on the site, could not find */
function checkPlace({ directory, fileName }: Publication): void {
  if (!directory.startsWith('/')) {
    throw new HpcsError('usage', 'bad-value', `the directory on the site ${JSON.stringify(directory)} is not an absolute path`, {
      suggestion: 'name it from the root as --data-path-at-rest, for example /scratch/project_1/alice',
    });
  }
  if (['', '.', '..'].includes(fileName)) {
    throw new HpcsError('usage', 'bad-value', `${JSON.stringify(fileName)} is not a name of a file`, {
      suggestion: 'name the sealed file with --data-path, or leave that out',
    });
  }
}
