import { createWriteStream } from 'node:fs';
import { type FileHandle, mkdir, open as openFile, rename, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { HpcsError } from '../errors.ts';
import { renderManifest, resultFiles } from '../job/manifest.ts';
import type { Inside, JobPlan, PlannedArtefact } from '../job/plan.ts';
import { renderVolumeKey } from '../job/volume-key.ts';
import { unpack } from '../pack/unpack.ts';
import { readBytes } from '../seal/files.ts';
import { open } from '../seal/open.ts';
import { seal } from '../seal/seal.ts';
import { digestingAside, Sealing } from '../seal/threads.ts';
import { Secret } from '../secret.ts';
import { applicationCommand, containerArguments, containerEnvironment, type Bind, type ContainerRun } from './container.ts';
import { checkImageConfig } from './image-config.ts';
import { nameless } from './nameless.ts';
import { originalArguments, originalExitCode, replaceLogic } from './original.ts';
import { openOutputFile, writeOutputFile } from './output-file.ts';
import type { NodeContext } from './outside.ts';
import { bareEnvironment, Program } from './program.ts';
import { scriptTargets, takeScripts } from './scripts.ts';
import { leaveOutSpecialFiles } from './special-files.ts';
import { Volume } from './volume.ts';

/** {@link Inside} with its keys wrapped. */
export type InsideInput = Omit<Inside, 'image' | 'data' | 'authenticationKey' | 'scriptsKey'> & {
  image: Omit<Inside['image'], 'key'> & { key: Secret };
  data: Omit<Inside['data'], 'key'> & { key: Secret };
  authenticationKey: Secret;
  scriptsKey: Secret | null;
};

/** How the application ended. */
interface Outcome {
  exitCode: number | null;
  partial: string | null;
}

/**
 * The half inside the private namespace: volumes, decryption, scripts, application, results.
 *
 * Everything in plain lies in two encrypted volumes that only this namespace sees mounted.
 *
 * @returns the job's exit code: the application's own
 */
export async function inside(input: InsideInput, context: NodeContext): Promise<number> {
  const { plan, resultDirectory, privateDirectory } = input;
  const { signal, progress } = context;
  const program = (name: string): string => join(privateDirectory, 'bin', name);
  const mounts = join(privateDirectory, 'mnt');
  await mkdir(mounts, { mode: 0o700 });

  const workCipher = join(await workPlace([privateDirectory, resultDirectory], [plan.image, plan.data]), 'work.volume');
  progress('volumes: mounting two encrypted volumes');
  await using work = await Volume.create(program('gocryptfs'), workCipher, join(mounts, 'work'));
  const output = await Volume.create(
    program('gocryptfs'),
    join(resultDirectory, resultFiles.outputVolume),
    join(mounts, 'output'),
    { keep: true },
  );
  await using _output = output;
  const mayWithhold = plan.outputScripts !== null || input.image.config === null;
  if (!mayWithhold) await sealVolumeKey(input, output);

  for (const name of ['encrypted', 'scratch', 'tmp', 'var-tmp', 'home', 'apptainer', 'scripts'])
    await mkdir(join(work.path, name), { mode: 0o700 });
  const scripts = {
    input: await takeScripts(plan.inputScripts, join(work.path, 'scripts/input'), input.scriptsKey, signal),
    output: await takeScripts(plan.outputScripts, join(work.path, 'scripts/output'), input.scriptsKey, signal),
  };
  input.scriptsKey?.[Symbol.dispose]();

  progress('image: decrypting and checking');
  const sif = join(work.path, 'app.sif');
  await decryptImage(plan.image, input.image.key, sif, signal);
  if (input.image.config !== null) await checkImageConfig(sif, input.image.config);
  progress('data: decrypting, checking and unpacking');
  await decryptData(plan.data, input.data.key, join(work.path, 'encrypted'), signal);
  input.image.key[Symbol.dispose]();
  input.data.key[Symbol.dispose]();

  const image = input.image.config;
  if (image === null) progress('image: prepared by the original; its input and output logic is replaced');
  const logic = image === null ? await replaceLogic(join(work.path, 'logic')) : [];
  const run = (command: readonly string[]): ContainerRun => ({
    apptainer: plan.apptainer,
    sif,
    command,
    image: image ?? { env: [], workdir: '' },
    home: { source: join(work.path, 'home'), target: '/sd-container/home' },
    binds: [...binds(work.path, output.path, scripts), ...logic],
    flags: plan.flags,
    temporary: join(work.path, 'apptainer'),
  });

  const outcome = await runAll(input, { run, scripts, output: output.path, mayWithhold }, context);
  await sealResults(input, output, outcome);
  progress(`results: sealed into ${resultDirectory}`);
  return outcome.exitCode ?? 143;
}

/** What {@link runAll} runs, and where. */
interface Steps {
  run: (command: readonly string[]) => ContainerRun;
  scripts: Record<'input' | 'output', readonly string[]>;
  /** The plain view of the output volume. */
  output: string;
  /** Whether something judges the result before it is given away. */
  mayWithhold: boolean;
}

/** Input scripts, application, output scripts. @throws HpcsError `job` when a script failed or the result is withheld */
async function runAll(input: InsideInput, { run, scripts, output, mayWithhold }: Steps, context: NodeContext): Promise<Outcome> {
  const { signal, progress } = context;
  // Opened before anything that runs in the container can put something else in their place.
  await using logs = await scriptLogs(output, scripts);
  await runScripts('input', scripts.input, run, logs, context);
  progress('application: starting');
  const { config } = input.image;
  const outcome =
    config === null
      ? await runOriginal(run(originalArguments(input.plan.arguments)), output, signal)
      : await runApplication(run(applicationCommand(config, input.plan.arguments)), output, signal);
  progress(
    outcome.exitCode === null ? `application: ended early, ${outcome.partial}` : `application: exit code ${outcome.exitCode}`,
  );
  if (outcome.partial === null) await runScripts('output', scripts.output, run, logs, context);
  else if (mayWithhold) {
    throw new HpcsError(
      'job',
      'result-withheld',
      'the job ended early, and its output scripts could not judge the result: it is withheld',
      { suggestion: 'if it was the time limit that ended it, submit it again with a longer one' },
    );
  }
  return outcome;
}

function binds(work: string, output: string, scripts: { input: string[]; output: string[] }): Bind[] {
  const list: Bind[] = [
    { source: join(work, 'encrypted'), target: '/sd-container/encrypted' },
    { source: output, target: '/sd-container/output' },
    { source: join(work, 'scratch'), target: '/sd-container/scratch' },
    { source: join(work, 'tmp'), target: '/tmp' },
    { source: join(work, 'var-tmp'), target: '/var/tmp' },
  ];
  for (const kind of ['input', 'output'] as const) {
    if (scripts[kind].length > 0) list.push({ source: join(work, 'scripts', kind), target: scriptTargets[kind], readOnly: true });
  }
  return list;
}

/**
 * Decrypts an artefact. What `use` made of it counts only when this returns: then every sealed byte was read, and was the published one.
 */
async function decrypt(
  artefact: PlannedArtefact,
  key: Secret,
  signal: AbortSignal,
  use: (plain: AsyncIterable<Uint8Array>) => Promise<unknown>,
): Promise<void> {
  await using sealed = digestingAside(readBytes(artefact.path));
  try {
    await use(open(sealed.bytes, key, { signal, checkedAtEnd: true }));
  } catch (error) {
    signal.throwIfAborted();
    throw artefact.format === 'openpgp-gpg' ? withheld(artefact) : nameless(`decrypting ${artefact.path}`, error);
  }
  const { sha512 } = await sealed.summary;
  if (sha512 === artefact.sha512) return;
  throw new HpcsError(
    'integrity',
    'artefact-altered',
    `${artefact.path} is not what was published: its SHA-512 is ${sha512.slice(0, 16)}…, not ${artefact.sha512.slice(0, 16)}…`,
    { suggestion: 'prepare it again, and tell the site' },
  );
}

// Data that can be checked only at its end may have been altered by the site when something is wrong with its content: what that is
// could tell the site, which reads the job's log, some of the content.
function withheld(artefact: PlannedArtefact): HpcsError {
  return new HpcsError(
    'integrity',
    'artefact-altered',
    `${artefact.path} could not be decrypted: it is not what was published, or there is no room for it`,
    {
      suggestion:
        'compare its SHA-512 with the info record; what else is known of the cause is not told where the site can read it',
    },
  );
}

async function decryptImage(artefact: PlannedArtefact, key: Secret, target: string, signal: AbortSignal): Promise<void> {
  const file = createWriteStream(target, { flags: 'wx', mode: 0o600, highWaterMark: 1024 * 1024 });
  await decrypt(artefact, key, signal, (plain) => pipeline(plain, file, { signal }));
}

async function decryptData(artefact: PlannedArtefact, key: Secret, target: string, signal: AbortSignal): Promise<void> {
  await decrypt(artefact, key, signal, (plain) => unpack(plain, target, { signal }));
}

/** Files for what scripts print: they read the plain data, and the job's log lies on the site in plain. */
type ScriptLogs = AsyncDisposable & Record<'input' | 'output', FileHandle | undefined>;

async function scriptLogs(output: string, scripts: Record<'input' | 'output', readonly string[]>): Promise<ScriptLogs> {
  await using cleanup = new AsyncDisposableStack();
  const log = async (kind: 'input' | 'output'): Promise<FileHandle | undefined> =>
    scripts[kind].length === 0 ? undefined : cleanup.use(await openOutputFile(output, `${kind}_scripts.log`));
  const files = { input: await log('input'), output: await log('output') };
  const owned = cleanup.move();
  return { ...files, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

async function runScripts(
  kind: 'input' | 'output',
  names: readonly string[],
  run: (command: readonly string[]) => ContainerRun,
  logs: ScriptLogs,
  { signal, progress }: NodeContext,
): Promise<void> {
  for (const name of names) {
    signal.throwIfAborted();
    progress(`${kind} script ${name}: starting`);
    const code = await contain(
      run([`${scriptTargets[kind]}/${name}`]),
      ['ignore', logs[kind]?.fd ?? 'ignore', logs[kind]?.fd ?? 'ignore'],
      signal,
    );
    if (code === 0) continue;
    throw new HpcsError(
      'job',
      `${kind}-script-failed`,
      `the ${kind} script ${name} failed (exit ${code}): ${kind === 'input' ? 'the application was not started' : 'the result is withheld'}`,
      kind === 'input'
        ? {
            suggestion: `what it printed lies in the output volume: job results --partial opens it, unless there are output scripts`,
          }
        : {
            suggestion: 'if it was not meant to fail, correct it and submit the job again; what it printed is withheld, too',
          },
    );
  }
}

async function runApplication(run: ContainerRun, output: string, signal: AbortSignal): Promise<Outcome> {
  await using stdout = await openOutputFile(output, 'stdout');
  await using stderr = await openOutputFile(output, 'stderr');
  const code = await contain(run, ['ignore', stdout.fd, stderr.fd], signal);
  if (signal.aborted) return { exitCode: null, partial: 'time limit or cancel' };
  await writeOutputFile(output, 'exit_code', `${code}\n`);
  return { exitCode: code, partial: null };
}

/** As {@link runApplication}, for an image whose entry point writes the same three files itself. */
async function runOriginal(run: ContainerRun, output: string, signal: AbortSignal): Promise<Outcome> {
  await using log = await openOutputFile(output, 'image.log');
  const code = await contain({ ...run, entryPoint: true }, ['ignore', log.fd, log.fd], signal);
  if (signal.aborted) return { exitCode: null, partial: 'time limit or cancel' };
  return { exitCode: await originalExitCode(output, code), partial: null };
}

/** Runs one command in the container to its end; a signal ends it with all its children. */
async function contain(
  run: ContainerRun,
  stdio: ['ignore', number | 'ignore', number | 'ignore'],
  signal: AbortSignal,
): Promise<number> {
  const program = new Program(run.apptainer, containerArguments(run), {
    env: containerEnvironment(run, bareEnvironment['PATH'] as string),
    stdio,
    detached: true,
    cwd: '/',
  });
  const stop = (): void => void program.stop(10_000);
  signal.addEventListener('abort', stop, { once: true });
  if (signal.aborted) stop();
  try {
    return (await program.ended).code;
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

/** From the start, so that the output of a job which is killed can still be opened by its owner, and by nobody else. */
async function sealVolumeKey(input: InsideInput, output: Volume): Promise<void> {
  const run = { id: input.jobId, restart: input.restart };
  using key = renderVolumeKey(output.password, run, input.authenticationKey);
  const sealed = seal(Readable.from([key.bytes()]), {
    format: input.plan.results.format,
    recipients: resultRecipients(input.plan),
    compress: 'none',
  });
  await publishFile(join(input.resultDirectory, resultFiles.outputVolumeKey), sealed.bytes);
}

/** Seals the output, publishes it with its manifest, manifest last, and then removes the volume it came from. */
async function sealResults(input: InsideInput, output: Volume, outcome: Outcome): Promise<void> {
  const { plan, resultDirectory } = input;
  await output.revive();
  await leaveOutSpecialFiles(output.path).catch((error: unknown) => {
    throw nameless('looking through the results', error);
  });
  await using sealing = await Sealing.start(
    { path: output.path, name: 'output' },
    {
      format: plan.results.format,
      recipients: resultRecipients(plan),
      // The other formats are chosen for other programs, which give what they open straight to tar.
      compress: plan.results.format === 'openpgp' ? 'auto' : 'none',
    },
  );
  await publishFile(join(resultDirectory, resultFiles.sealed), sealing, (blocks) => sealing.release(blocks));
  const manifest = renderManifest(
    {
      version: 1,
      job: { id: input.jobId, name: plan.name, restart: input.restart },
      image: { artefact: input.image.artefact, sha512: plan.image.sha512 },
      data: { artefact: input.data.artefact, sha512: plan.data.sha512 },
      flags: plan.flags,
      exitCode: outcome.exitCode,
      partial: outcome.partial,
      result: { ...(await sealing.summary), plain: sealing.plainSize, format: plan.results.format },
      finished: new Date().toISOString(),
    },
    input.authenticationKey,
  );
  await publishFile(join(resultDirectory, resultFiles.manifest), [Buffer.from(manifest)]);
  await output[Symbol.asyncDispose]();
  await rm(output.cipher, { recursive: true, force: true });
  await rm(join(resultDirectory, resultFiles.outputVolumeKey), { force: true });
}

function resultRecipients({ results }: JobPlan): string[] {
  return [results.publicKey, ...results.recipients];
}

/**
 * Writes a file that appears whole or not at all.
 *
 * @param release told of each block that was written
 * @throws HpcsError that names nothing but this file
 */
async function publishFile(
  path: string,
  blocks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  release?: (blocks: number) => void,
): Promise<void> {
  const temporary = `${path}.part`;
  try {
    await using file = await openFile(temporary, 'wx', 0o600);
    for await (const block of blocks) {
      await file.writeFile(block);
      release?.(1);
    }
    await file.sync();
  } catch (error) {
    throw nameless(`writing ${path}`, error);
  }
  await rename(temporary, path);
}

// Magic numbers of file systems in memory, which counts as the job's: linux/magic.h.
const inMemory = new Set([0x01021994, 0x858458f6]);

/**
 * Where the work volume's ciphertext lies: on the node, where nobody else can exchange files of it, if that is a disk with room.
 *
 * @throws HpcsError `site` `no-space`
 */
async function workPlace(places: readonly string[], artefacts: readonly PlannedArtefact[]): Promise<string> {
  const needed = artefacts.reduce((sum, artefact) => sum + (artefact.size ?? 0), 0);
  for (const place of places) {
    const space = await statfs(place);
    // Twice: what is sealed may be compressed.
    if (!inMemory.has(space.type) && space.bavail * space.bsize >= 2 * needed) return place;
  }
  throw new HpcsError(
    'site',
    'no-space',
    `neither ${places.join(' nor ')} is a disk with the ${2 * needed} bytes free that image and data need`,
    {
      suggestion: 'free space there, or name a larger directory: node-scratch in the configuration, or --workdir',
    },
  );
}
