import { randomBytes } from 'node:crypto';
import type { Readable, Writable } from 'node:stream';
import { HpcsError } from '../errors.ts';
import { nulCharacter } from '../shell.ts';
import { noRemoteShell } from './ssh-errors.ts';
import type { ExecOptions, RemoteExit, RemoteProcess } from './transport.ts';

/** Longest standard error that is kept, in bytes. */
const longestStderr = 64 * 1024;
/** Longest output of a login shell's start-up files that is looked through for the start of ours. */
const longestNoise = 1024 * 1024;
/** How long ending a remote command may take before its channel is simply closed, in milliseconds. */
const killLimit = 5000;

/**
 * The command that every transport asks the login shell for: the same words in sh, csh and fish, without newlines or history
 * characters, and without anything of ours in it. The shell text follows on standard input as one line.
 */
export const remoteCommand = `exec /bin/sh -c 'IFS= read -r s && eval "$(printf %b "$s")"'`;

/** What a transport has to provide for one command: {@link remoteCommand}'s three streams and its end. */
export interface Channel {
  stdin: Writable;
  stdout: Readable;
  stderr: Readable;
  /** Resolves when the command ended. Rejects with an HpcsError `site` when the connection broke first. */
  ended: Promise<{ code: number | null }>;
  /** Ends the channel at once, whatever state it is in. */
  close(): void;
  /** Has no more than so many bytes of `stdin` under way at once from now on. */
  narrow?(bytes: number): void;
  /** Nothing where the connection, which other channels share, takes more now; otherwise what resolves when that may be so. */
  room?(): Promise<void> | undefined;
}

/** What {@link FramedProcess} needs of its transport. */
export interface ChannelSource {
  /** Opens a channel on which {@link remoteCommand} runs. Rejects with an HpcsError `site`. */
  open(): Promise<Channel>;
  /** Runs further shell text on the same connection, to end a command. */
  exec(script: string): RemoteProcess;
}

/**
 * A remote command between marks of ours: whatever a login shell's start-up files print before the first mark is not the
 * command's, and the last one carries the exit code, so that it cannot be taken for the transport's own.
 */
export class FramedProcess implements RemoteProcess {
  readonly stdout: AsyncIterable<Uint8Array>;
  readonly finished: Promise<RemoteExit>;
  readonly #source: ChannelSource;
  readonly #mark = `hpcs-${randomBytes(9).toString('hex')}`;
  readonly #options: ExecOptions;
  readonly #started: Promise<Started>;
  readonly #stderr = new Tail(longestStderr + 1024);
  readonly #noise = new Tail(longestNoise);
  readonly #read = Promise.withResolvers<void>();
  readonly #stopped = Promise.withResolvers<void>();
  #failure: { error: unknown } | undefined;
  #stopping = false;
  #over = false;

  constructor(source: ChannelSource, script: string, options: ExecOptions) {
    this.#source = source;
    this.#options = options;
    this.#started = this.#start(script);
    this.stdout = this.#output();
    this.finished = this.#finish();
    // Whoever reads the output sees the error there; `finished` need not be awaited too.
    this.finished.catch(() => undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#over) return;
    await this.stop(new HpcsError('site', 'remote-command-ended', 'the remote command was ended before it was done'));
    await this.finished.catch(() => undefined);
  }

  /** Ends the remote command and makes `finished` reject with `reason`. */
  async stop(reason: unknown): Promise<void> {
    this.#failure ??= { error: reason };
    if (!this.#stopping) {
      this.#stopping = true;
      await this.#stop();
      this.#stopped.resolve();
    }
    await this.#stopped.promise;
  }

  async #start(script: string): Promise<Started> {
    this.#options.signal?.throwIfAborted();
    const text = encodeLine(
      `trap : HUP INT TERM\nprintf '\\n%s %s\\n' ${this.#mark} $$\nprintf '\\n%s\\n' ${this.#mark} >&2\n(\n${script}\n)\n` +
        `e=$?\nprintf '\\n%s %s\\n' ${this.#mark} $e >&2\nexit $e`,
    );
    const channel = await this.#source.open();
    channel.ended.catch(() => undefined);
    // A broken pipe is seen where the channel ends, with the reason.
    for (const stream of [channel.stdin, channel.stdout, channel.stderr]) stream.on('error', () => undefined);
    channel.stderr.on('data', (chunk: Buffer) => this.#stderr.push(chunk));
    channel.stdin.write(text);
    this.#options.underWay?.then((bytes) => channel.narrow?.(bytes), () => undefined); // prettier-ignore
    const output = new ByteReader(channel.stdout);
    return { channel, output, head: this.#findHead(output) };
  }

  /** Reads up to the first mark. */
  async #findHead(output: ByteReader): Promise<Head | undefined> {
    for (let chunk = await output.next(); chunk !== undefined; chunk = await output.next()) {
      const seen = Buffer.concat([this.#noise.bytes(), chunk]);
      const start = seen.indexOf(`\n${this.#mark} `);
      const end = start < 0 ? -1 : seen.indexOf('\n', start + 1);
      if (end >= 0) return { pid: seen.toString('latin1', start + this.#mark.length + 2, end), rest: seen.subarray(end + 1) };
      this.#noise.push(chunk);
    }
    return undefined;
  }

  async #finish(): Promise<RemoteExit> {
    const onAbort = (): void => void this.stop(this.#options.signal?.reason);
    this.#options.signal?.addEventListener('abort', onAbort);
    try {
      const { channel, head } = await this.#started;
      if (this.#options.signal?.aborted) onAbort();
      const pumped = this.#pump(channel);
      const code = await Promise.race([this.#end(channel), this.#stopped.promise.then(() => null)]);
      await Promise.race([Promise.all([pumped, this.#read.promise]), this.#stopped.promise]);
      // Not thrown before the command is gone.
      if (this.#stopping) await this.#stopped.promise;
      if (this.#failure !== undefined) throw this.#failure.error;
      return this.#exit(code, (await head) !== undefined);
    } finally {
      this.#over = true;
      this.#options.signal?.removeEventListener('abort', onAbort);
    }
  }

  async #end(channel: Channel): Promise<number | null> {
    try {
      return (await channel.ended).code;
    } catch (error) {
      this.#failure ??= { error };
      return null;
    }
  }

  #exit(code: number | null, started: boolean): RemoteExit {
    const marked = this.#stderr.text().split(`\n${this.#mark}`);
    if (!started) throw noRemoteShell(code, `${marked[0] ?? ''}\n${this.#noise.text()}`);
    const trailer = marked.length > 1 ? /^ (\d+)\n/.exec(marked.at(-1) ?? '') : null;
    const body = trailer === null ? marked : marked.slice(0, -1);
    const stderr = (body.length > 1 ? body.slice(1) : body).join('').replace(/^\n/, '');
    return { code: trailer === null ? code : Number(trailer[1]), stderr: stderr.slice(-longestStderr) };
  }

  /** Feeds the input no faster than it is taken; stops without error when the command takes no more. */
  async #pump(channel: Channel): Promise<void> {
    const { stdin } = channel;
    const end = new End();
    for (const event of ['close', 'error', 'finish']) stdin.once(event, () => end.come());
    channel.ended.then(() => end.come(), () => end.come()); // prettier-ignore
    const input = iterate(this.#options.input ?? []);
    try {
      for (;;) {
        const item = await end.or(Promise.resolve(input.next()));
        // Whoever waited with it looks again: another channel may have been first.
        for (let room = channel.room?.(); room !== undefined && !end.hasCome; room = channel.room?.()) await end.or(room);
        if (item === undefined || item.done || this.#failure !== undefined || stdin.destroyed || stdin.writableEnded) break;
        if (!stdin.write(item.value)) await end.or(new Promise<void>((resolve) => stdin.once('drain', resolve)));
      }
      // Not awaited: a source that waits for something else must not keep a finished command.
      void Promise.resolve(input.return?.()).catch(() => undefined);
    } catch (error) {
      // The end of standard input would look like the whole input to the command: end it first.
      await this.stop(error);
    }
    // After a stop the command must not take the end of its input for the end of the data.
    if (this.#failure === undefined) stdin.end();
  }

  async *#output(): AsyncGenerator<Uint8Array, void, undefined> {
    let complete = false;
    try {
      const { channel, output, head } = await this.#started;
      const rest = (await head)?.rest;
      if (rest !== undefined && rest.length > 0) yield rest;
      for (let chunk = await output.next(); chunk !== undefined; chunk = await output.next()) yield chunk;
      complete = true;
      this.#read.resolve();
      await Promise.race([channel.ended, this.#stopped.promise]);
      if (this.#failure !== undefined) throw this.#failure.error;
    } catch (error) {
      complete = true;
      throw this.#failure === undefined ? error : this.#failure.error;
    } finally {
      this.#read.resolve();
      if (!complete) await this[Symbol.asyncDispose]();
    }
  }

  async #stop(): Promise<void> {
    const started = await this.#started.catch(() => undefined);
    if (started === undefined) return;
    const limit = Promise.withResolvers<void>();
    const timer = setTimeout(limit.resolve, killLimit);
    try {
      await Promise.race([this.#kill(started.head), started.channel.ended, limit.promise]);
    } catch {
      // The connection is gone, and with it the way to end the command; its input and output are closed, which ends most.
    } finally {
      clearTimeout(timer);
      started.channel.close();
      started.output.close();
    }
  }

  async #kill(head: Promise<Head | undefined>): Promise<void> {
    const pid = (await head)?.pid ?? '';
    if (!/^\d+$/.test(pid)) return;
    const killer = this.#source.exec(killScript.replace('PID', pid));
    for await (const _ of killer.stdout);
    await killer.finished;
  }
}

/** What may end any wait before its time. (With Promise.race it would hold what came of each wait until it comes itself.) */
class End {
  #come = false;
  #wake: () => void = () => undefined;

  get hasCome(): boolean {
    return this.#come;
  }

  come(): void {
    this.#come = true;
    this.#wake();
  }

  /** What comes of a promise, or undefined when the end comes first. One at a time. */
  or<Result>(promise: Promise<Result>): Promise<Result | undefined> {
    return new Promise((resolve, reject) => {
      promise.then(resolve, reject);
      if (this.#come) resolve(undefined);
      else this.#wake = () => resolve(undefined);
    });
  }
}

/** A channel whose output is being read. */
interface Started {
  channel: Channel;
  output: ByteReader;
  head: Promise<Head | undefined>;
}

/** What the first mark tells, and the output that came with it. */
interface Head {
  pid: string;
  rest: Buffer;
}

/**
 * Reads a stream without ending it: the stream's own iterator destroys it at its end, and with it, on an SSH channel, the other
 * direction.
 */
class ByteReader {
  readonly #stream: Readable;
  #closed = false;
  #wake: () => void = () => undefined;

  constructor(stream: Readable) {
    this.#stream = stream;
    stream.on('readable', () => this.#wake());
    for (const event of ['end', 'close', 'error']) stream.on(event, () => this.close());
  }

  close(): void {
    this.#closed = true;
    this.#wake();
  }

  async next(): Promise<Buffer | undefined> {
    for (;;) {
      const chunk = this.#stream.read() as Buffer | null;
      if (chunk !== null) return chunk;
      if (this.#closed) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

function iterate(source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): AsyncIterator<Uint8Array> | Iterator<Uint8Array> {
  return Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
}

// Every session of sshd leads a process group of its own, so that the group is the command and all it started. No `--`: dash's kill
// does not know it.
const killScript = `pid=PID
kill -TERM "-$pid" 2>/dev/null || kill -TERM "$pid" 2>/dev/null
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
  kill -0 "-$pid" 2>/dev/null || exit 0
  sleep 0.1 2>/dev/null || sleep 1
done
kill -KILL "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null
:`;

/**
 * Shell text as one line of ASCII for `read -r` and `printf %b`.
 *
 * @throws HpcsError `usage` for a NUL character
 */
export function encodeLine(script: string): string {
  let line = '';
  for (const byte of Buffer.from(script, 'utf8')) {
    if (byte === 0) throw nulCharacter();
    if (byte === 0x5c) line += '\\\\';
    else if (byte >= 0x20 && byte < 0x7f) line += String.fromCharCode(byte);
    else line += `\\0${byte.toString(8).padStart(3, '0')}`;
  }
  return `${line}\n`;
}

/** The last bytes of a stream. */
class Tail {
  readonly #limit: number;
  #parts: Buffer[] = [];
  #size = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  push(part: Buffer): void {
    this.#parts.push(part);
    this.#size += part.length;
    if (this.#size > 2 * this.#limit) {
      // A copy, so that the large buffers behind a small part are not kept.
      this.#parts = [Buffer.from(this.bytes())];
      this.#size = this.#limit;
    }
  }

  bytes(): Buffer {
    const all = Buffer.concat(this.#parts);
    return all.subarray(Math.max(0, all.length - this.#limit));
  }

  text(): string {
    return this.bytes().toString('utf8');
  }
}
