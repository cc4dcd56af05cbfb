import { randomBytes } from 'node:crypto';
import { chmod, chown, mkdir, readdir, readFile, rm, stat, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { HpcsError } from '../errors.ts';
import { Secret } from '../secret.ts';
import { bareEnvironment, Program, runProgram } from './program.ts';

const mountLimit = 20_000;

/**
 * An encrypted directory: gocryptfs ciphertext in one place, its plain view mounted in another, where only this mount namespace
 * sees it. The password is made here and lives in this process's memory and two pipes.
 */
export class Volume implements AsyncDisposable {
  readonly cipher: string;
  /** The plain view. */
  readonly path: string;
  readonly password: Secret;
  readonly #gocryptfs: string;
  readonly #keep: boolean;
  #server: Program;
  #ready = false;

  private constructor(gocryptfs: string, cipher: string, path: string, password: Secret, keep: boolean) {
    this.#gocryptfs = gocryptfs;
    this.cipher = cipher;
    this.path = path;
    this.password = password;
    this.#keep = keep;
    this.#server = this.#serve();
  }

  /**
   * Makes, mounts and proves a new volume.
   *
   * @param gocryptfs path of the program
   * @param cipher directory for the ciphertext; must not exist
   * @param mountPoint directory for the plain view; must not exist
   * @param options.keep leave the ciphertext when disposed of
   * @throws HpcsError `site` when it does not mount or is not what it should be
   */
  static async create(gocryptfs: string, cipher: string, mountPoint: string, options: { keep?: boolean } = {}): Promise<Volume> {
    const password = new Secret(randomBytes(32).toString('hex'));
    await mkdir(cipher, { mode: 0o700 });
    // In a project directory files belong to the project's group, which this user namespace does not know: the kernel would deny every
    // write to them. (gocryptfs's -force_owner forgets new directories.)
    await chown(cipher, process.getuid?.() ?? -1, process.getgid?.() ?? -1);
    await chmod(cipher, 0o700);
    await mkdir(mountPoint, { mode: 0o700 });
    // The password is 256 random bits: a costly scrypt adds nothing.
    await runProgram(gocryptfs, ['-init', '-q', '-scryptn', '10', '--', cipher], { input: `${password.reveal()}\n` });
    const volume = new Volume(gocryptfs, cipher, mountPoint, password, options.keep ?? false);
    try {
      await volume.#mounted();
      await volume.#prove();
      return volume;
    } catch (error) {
      await volume[Symbol.asyncDispose]();
      throw error;
    }
  }

  #serve(): Program {
    const server = new Program(this.#gocryptfs, ['-fg', '-nosyslog', '--', this.cipher, this.path], {
      input: `${this.password.reveal()}\n`,
      env: bareEnvironment,
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    // The mount is visible earlier, but gocryptfs still opens a file of its own in it: whoever creates one then can wait for ever.
    this.#ready = false;
    let said = '';
    server.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-1024);
      if (said.includes('Filesystem mounted and ready')) this.#ready = true;
    });
    return server;
  }

  /** Mounts it again if its program was ended: Slurm signals every process of a cancelled job, and gocryptfs obeys. */
  async revive(): Promise<void> {
    await sleep(100);
    if (!this.#server.hasEnded) return;
    await new Program('umount', ['-l', this.path], { stdio: 'ignore' }).ended;
    this.#server = this.#serve();
    await this.#mounted();
  }

  async #mounted(): Promise<void> {
    const limit = Date.now() + mountLimit;
    let ended: string | undefined;
    this.#server.ended.then((exit) => (ended = exit.stderr.trim() || `exit ${exit.code}`), (error: Error) => (ended = error.message)); // prettier-ignore
    while (!this.#ready || !(await isGocryptfs(this.path))) {
      if (ended !== undefined || Date.now() > limit) {
        throw new HpcsError(
          'site',
          'volume-not-mounted',
          `the encrypted volume did not mount on this node: ${ended ?? 'time limit'}`,
          {
            suggestion: 'compute nodes need /dev/fuse and unprivileged user namespaces: ask the site',
          },
        );
      }
      await sleep(20);
    }
    // The kernel denies the first create in a root that nobody has looked at.
    await stat(this.path);
  }

  /** A canary: what is written to the plain view must appear, in another form, in the ciphertext. */
  async #prove(): Promise<void> {
    const canary = randomBytes(32).toString('hex');
    const file = join(this.path, canary);
    const before = new Set(await readdir(this.cipher));
    await writeFile(file, canary, { flag: 'wx', mode: 0o600 });
    const added = (await readdir(this.cipher)).filter((name) => !before.has(name));
    const sealed = added.length === 1 && added[0] !== canary ? await readFile(join(this.cipher, added[0] as string)) : undefined;
    const real = sealed !== undefined && !sealed.includes(canary) && (await readFile(file, 'utf8')) === canary;
    await unlink(file);
    if (!real) {
      throw new HpcsError(
        'site',
        'volume-not-encrypted',
        `${this.path} does not encrypt into ${this.cipher}: no key will be used on this node`,
        { suggestion: 'tell the site, and submit the job again on another node, with --nodelist' },
      );
    }
  }

  /** Unmounts; removes the ciphertext unless it is to be kept. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.stop();
    this.password[Symbol.dispose]();
    if (!this.#keep) await rm(this.cipher, { recursive: true, force: true });
  }
}

async function isGocryptfs(path: string): Promise<boolean> {
  const mounts = await readFile('/proc/self/mountinfo', 'utf8');
  return mounts.split('\n').some((line) => {
    const [left = '', right = ''] = line.split(' - ');
    return left.split(' ')[4] === path && right.startsWith('fuse.gocryptfs ');
  });
}
