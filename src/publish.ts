import { randomBytes } from 'node:crypto';
import { basename, posix } from 'node:path';
import { Catalogue } from './catalogue.ts';
import type { Config } from './config.ts';
import { HpcsError } from './errors.ts';
import { accessMode, checkVault, grantSecret, knownReaders, type AccessMode, type Readers } from './grant.ts';
import { openIdentity } from './identity/client-identity.ts';
import { keepCopy } from './keep.ts';
import type { Meter } from './meter.ts';
import { renderInfoRecord, type ImageConfig, type InfoRecord, type SealFormat } from './record.ts';
import { generateKey } from './seal/keys.ts';
import { recipientsField, type Recipient } from './seal/recipients.ts';
import { Sealing, type SealSource } from './seal/threads.ts';
import { openServices } from './services.ts';
import { connect } from './site/connect.ts';
import { freeName, makeDirectory } from './site/files.ts';
import { startUpload, uploadFile } from './site/upload.ts';
import { stateDirectory } from './state.ts';

/** An artefact to be sealed, shipped and granted. */
export interface Publication {
  kind: 'image' | 'data';
  /** What to seal, read once. */
  content: SealSource;
  /** Name of the sealed file. */
  fileName: string;
  /** Directory on the site. */
  directory: string;
  username: string | undefined;
  format: SealFormat;
  /** Who can open it beside the holder of the key in the vault. */
  recipients: readonly Recipient[];
  readers: Readers;
  image?: ImageConfig;
  /** Plain bytes in all, where they are known, for the progress. */
  total?: number | undefined;
  /** Local file that keeps a copy of the sealed bytes. */
  keep?: string | undefined;
  /** Bytes per second, at most; in place of the configuration's. */
  bandwidth?: number | undefined;
}

/** What was published. */
export interface Published {
  path: string;
  info: string;
  sha512: string;
  size: number;
  secretPath: string;
}

/**
 * Seal and ship in one pass, grant, store the key, publish: in this order, each step on the results of the one before.
 *
 * Nothing is visible on the site before everything up to it succeeded: the file appears by a rename, its info record last.
 * An artefact that is there already is never overwritten: the new one stands beside it, and the info record names the new one.
 */
export async function publish(
  publication: Publication,
  context: {
    config: Config;
    signal: AbortSignal;
    progress: (line: string) => void;
    warning: (line: string) => void;
    meter: (label: string, total?: number) => Meter;
  },
): Promise<Published> {
  const { config, signal, progress } = context;
  const catalogue = new Catalogue(await stateDirectory(config));
  await using services = await openServices(config);
  const mode = await accessMode(config.identity.mode, services, signal);
  checkReaders(publication.readers, mode);
  const key = await generateKey(publication.format);
  using _secret = key.secretKey;
  let shown: Meter | undefined;
  // Sealing begins while the connections are made, and waits for them when it is some blocks ahead.
  // The original opens age files straight into a SIF or into tar.
  await using sealing = await Sealing.start(publication.content, {
    format: publication.format,
    recipients: [key.publicKey, ...publication.recipients.map(({ publicKey }) => publicKey)],
    // An image is compressed within.
    compress: publication.kind === 'data' && publication.format === 'openpgp' ? 'paced' : 'none',
    signal,
    onProgress: (bytes) => shown?.update(bytes),
  });
  await using transport = await connect(config, { signal, username: publication.username });
  await makeDirectory(transport, publication.directory, { signal });
  await using identity = await openIdentity(config, { signal, progress });

  const granter = { services, identity, mode, signal, progress };
  // Whether the key can be stored is known before hours of upload, not after.
  await checkVault(granter);
  const readers = await knownReaders(publication.readers, config.supercomputer.username, granter);

  const wanted = posix.join(publication.directory, publication.fileName);
  const doing = `sealing and shipping ${publication.fileName}`;
  progress(doing);
  using meter = context.meter(doing, publication.total);
  shown = meter;
  await using upload = await startUpload(transport, wanted, keepCopy(sealing, publication.keep), {
    mode: 0o640,
    signal,
    patience: config.supercomputer['reconnect-limit'],
    bandwidth: publication.bandwidth ?? config.supercomputer['bandwidth-limit'],
    memory: sealing,
    warn: context.warning,
  });
  const { sha512, size } = await sealing.summary;
  meter[Symbol.dispose]();

  progress(`granting ${describeReaders(readers, mode)}`);
  const record = {
    artefact: randomBytes(16).toString('hex'),
    kind: publication.kind,
    format: publication.format,
    sha512,
    size,
    created: new Date().toISOString(),
    ...(publication.image === undefined ? {} : { image: publication.image }),
    ...recipientsField(publication.recipients),
    key: key.secretKey.reveal(),
  };
  const grant = await grantSecret(publication.fileName, readers, record, granter);

  const path = await upload.publishAs(await freeName(transport, wanted, record.artefact.slice(0, 8), { signal }));
  if (path !== wanted) progress(`${wanted} is an earlier artefact and stays; the new one is ${basename(path)}`);
  const info: InfoRecord = {
    path_at_rest: path,
    secret_path: grant.secretPath,
    access_role: grant.role,
    checksum: sha512,
    spiffeID: grant.spiffeId,
    format: publication.format,
    kind: publication.kind,
    artefact: record.artefact,
    size,
    ...(readers.nodes.length > 0 ? { nodes: [...readers.nodes] } : {}),
  };
  const infoPath = `${wanted}.info.yaml`;
  await uploadFile(transport, [Buffer.from(renderInfoRecord(info))], infoPath, { mode: 0o640, replace: true, signal });
  await catalogue.add({
    site: config.supercomputer.address,
    info: infoPath,
    artefact: record.artefact,
    secretPath: grant.secretPath,
    sha512,
    created: record.created,
  });
  return { path, info: infoPath, sha512, size, secretPath: grant.secretPath };
}

function list(value: string | undefined): string[] {
  return (value ?? '')
    .split(',')
    .map((part) => part.trim())
    .filter(Boolean);
}

/** Readers from comma-separated flags. @throws HpcsError `usage` for what is no name */
export function readersOf(flags: {
  users?: string | undefined;
  groups?: string | undefined;
  'compute-nodes'?: string | undefined;
}): Readers {
  const readers = { users: list(flags.users), groups: list(flags.groups), nodes: list(flags['compute-nodes']) };
  for (const name of [...readers.users, ...readers.groups, ...readers.nodes]) {
    if (/^[A-Za-z0-9_][A-Za-z0-9._@-]*$/.test(name)) continue;
    if (readers.users.includes(name) && /^oidc:[a-z0-9-]+:[\x21-\x2b\x2d-\x7e]+$/.test(name)) continue;
    throw new HpcsError('usage', 'bad-name', `${JSON.stringify(name)} is not a name of a user, group or node`, {
      suggestion: 'separate names with commas',
    });
  }
  return readers;
}

/** @throws HpcsError `usage` when nobody could read the artefact: in job mode its owner always can */
function checkReaders(readers: Readers, mode: AccessMode): void {
  if (mode === 'job') return;
  if (readers.users.length + readers.groups.length === 0) {
    throw new HpcsError('usage', 'no-readers', 'nobody is named who may read the artefact', {
      suggestion: 'name users with -u or groups with -g',
    });
  }
  if (readers.nodes.length === 0) {
    throw new HpcsError('usage', 'no-nodes', 'no compute node is named on which the artefact may be read', {
      suggestion: 'name nodes with -c',
    });
  }
}

function describeReaders(readers: Readers, mode: AccessMode): string {
  const user = mode === 'job' ? 'client' : 'user';
  const who = [...readers.users.map((name) => `${user} ${name}`), ...readers.groups.map((name) => `group ${name}`)];
  if (mode === 'job') return `jobs of ${['this client', ...who].join(', ')}`;
  return `${who.join(', ')} on ${readers.nodes.join(', ')}`;
}
