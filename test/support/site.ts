import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buffer } from 'node:stream/consumers';
import type Docker from 'dockerode';
import { connectDocker } from '../../src/image/docker.ts';
import { tarOf } from '../../src/pack/tar.ts';
import { defaultName, engineName, parts, type Part } from '../../src/sandbox/names.ts';
import { sandboxUp } from '../../src/sandbox/sandbox.ts';
import { Readable } from 'node:stream';
import { hpcs, type CliExit, type CliOptions } from './cli.ts';

/** Where the tests' sandbox keeps its files; that of the demo too, so that neither starts it twice. */
const directory = fileURLToPath(new URL('../../.sandbox', import.meta.url));

/** Another name lets several checkouts be tested on one machine at once. */
export const sandboxName = process.env['HPCS_TEST_SANDBOX'] ?? defaultName;

/** What the engine calls a part of the tests' sandbox. */
export function containerOf(part: Part): string {
  return engineName(sandboxName, parts[part]);
}

/** A running command in a container of the sandbox. */
export interface Ran {
  code: number;
  stdout: string;
  stderr: string;
}

/** The real site and services that end-to-end tests run on. */
export class Site implements AsyncDisposable {
  readonly docker: Docker;
  /** Directory of the sandbox: configuration, keys, authorities. */
  readonly directory = directory;
  readonly configuration: string;
  /** For clients and jobs that go the original's way: registered by a server that registers anyone, with agents. */
  readonly legacyConfiguration = join(directory, 'hpcs-client.legacy.conf');
  /** A private directory of this test file. */
  readonly temporary: string;
  readonly state: string;
  /** A directory of alice's on the site, of this test file alone. */
  readonly scratch: string;

  private constructor(docker: Docker, temporary: string, legacy: boolean) {
    this.docker = docker;
    this.configuration = legacy ? this.legacyConfiguration : join(directory, 'hpcs-client.conf');
    this.temporary = temporary;
    this.state = join(temporary, 'state');
    this.scratch = `/scratch/project_462000031/alice/${temporary.split('/').at(-1)}`;
  }

  /**
   * The sandbox, started unless it runs.
   *
   * @param options.legacy go the original's way: clients registered, and jobs attested by agents
   */
  static async open(options: { legacy?: boolean } = {}): Promise<Site> {
    const docker = await connectDocker();
    await sandboxUp({ docker, directory, name: sandboxName, nodes: 0, legacy: true, progress: () => {} });
    const site = new Site(docker, await mkdtemp(join(tmpdir(), 'hpcs-test-')), options.legacy ?? false);
    await mkdir(site.state);
    await site.run(`mkdir -p ${site.scratch}`);
    return site;
  }

  /** Runs `hpcs` against the sandbox. */
  hpcs(args: readonly string[], options: CliOptions = {}): Promise<CliExit> {
    return hpcs(args, { ...options, env: { HPCS_CONFIG: this.configuration, HPCS_STATE_DIR: this.state, ...options.env } });
  }

  /** The same; anything but success fails the test with what was said. */
  async hpcsOk(args: readonly string[], options: CliOptions = {}): Promise<CliExit> {
    const exit = await this.hpcs(args, options);
    if (exit.code !== 0) throw new Error(`hpcs ${args.join(' ')} ended ${exit.code}\n${exit.stderr}\n${exit.stdout}`);
    return exit;
  }

  /** Runs shell text on the site. */
  async run(script: string, user = 'alice', container = containerOf('site')): Promise<Ran> {
    const exec = await this.docker
      .getContainer(container)
      .exec({ Cmd: ['sh', '-c', script], User: user, AttachStdout: true, AttachStderr: true });
    const stream = await exec.start({});
    const raw = await buffer(stream);
    const [stdout, stderr] = split(raw);
    const { ExitCode } = await exec.inspect();
    return { code: ExitCode ?? -1, stdout, stderr };
  }

  /** Builds an image from files given as text or bytes; `Dockerfile` is one of them. */
  async image(name: string, files: Record<string, string | Uint8Array>): Promise<string> {
    const context = tarOf(Object.entries(files).map(([path, content]) => ({ name: path, content, mode: 0o755 })));
    const stream = await this.docker.buildImage(Readable.from([Buffer.from(context)]), { t: name });
    const log: unknown[] = await new Promise((resolve, reject) => {
      this.docker.modem.followProgress(stream, (error: Error | null, output: unknown[]) =>
        error === null ? resolve(output) : reject(error),
      );
    });
    if (JSON.stringify(log).includes('"error"')) throw new Error(JSON.stringify(log.slice(-3)));
    return name;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.run(`rm -rf ${this.scratch}`);
    await rm(this.temporary, { recursive: true, force: true });
  }
}

// Frames of the attach stream: stream number, three zero bytes, length, content.
function split(raw: Buffer): [stdout: string, stderr: string] {
  const parts: [Buffer[], Buffer[]] = [[], []];
  for (let at = 0; at + 8 <= raw.length;) {
    const length = raw.readUInt32BE(at + 4);
    parts[raw[at] === 2 ? 1 : 0].push(raw.subarray(at + 8, at + 8 + length));
    at += 8 + length;
  }
  return [Buffer.concat(parts[0]).toString('utf8'), Buffer.concat(parts[1]).toString('utf8')];
}
