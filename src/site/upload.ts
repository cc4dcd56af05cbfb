/**
 * Uploads: bytes go to a hidden neighbour of their path, over as many channels as the way there asks for, and appear by a rename.
 *
 * The neighbour is written through descriptors of one file, so that nobody who may write to its directory can put another in its
 * place. What the site has is acknowledged segment by segment; after a cut only the rest is sent, and the same bytes as before.
 */
import { HpcsError, messageOf } from '../errors.ts';
import { linesOf } from '../lines.ts';
import type { BlockMemory } from '../seal/bytes.ts';
import { assignments, quote } from '../shell.ts';
import { beside, exists, fileError, plain, preamble, removeTemporary, run, temporaryName, type FileOptions } from './files.ts';
import { Outbox } from './outbox.ts';
import { Patience, type PatienceOptions } from './patience.ts';
import { RoundTrip } from './round-trip.ts';
import { isCut } from './ssh-errors.ts';
import { Throttle } from './throttle.ts';
import type { Transport } from './transport.ts';

/** Options of {@link startUpload}. */
export interface UploadOptions extends FileOptions {
  /** Mode of the file, 0600 by default. */
  mode?: number;
  /** Seconds for which a lost connection is tried again. Default 0: the upload fails with it. */
  patience?: number | undefined;
  /** Bytes per second, at most. */
  bandwidth?: number | undefined;
  /** Where the content's blocks lie: their bytes must stay as they are until they are released. Default: memory of their own each. */
  memory?: BlockMemory | undefined;
  /** Told how many bytes of the content are acknowledged, of those that were given so far. */
  onProgress?: ((acknowledged: number, given: number) => void) | undefined;
  /** Told, with one line for people, of a lost connection, and when the temporary file could not be removed. */
  warn?: ((message: string) => void) | undefined;
}

/** Options of {@link Upload.publish}. */
export interface PublishOptions extends FileOptions {
  /** Replace what is there. Otherwise that is an error. */
  replace?: boolean;
}

/** Channels, each with OpenSSH's window of 2 MiB, that carry an upload at most. sshd allows ten sessions by default. */
const mostLanes = 8;
/** Milliseconds of round trip that one more channel is opened for: then each moves its window in the time that sealing makes it. */
const roundTripPerLane = 6;
/** Channels on the shortest way: while one waits for its window, another one's moves. */
const fewestLanes = 2;
/**
 * Bytes that are under way on a channel, at most, where the round trip takes no time, and how many more for each millisecond of it: what
 * one channel moves in that. More would only lie in the site's memory. OpenSSH takes 2 MiB at most.
 */
const underWay = { least: 512 * 1024, perMillisecond: 256 * 1024 };
/** On the shortest way segments are larger: each costs the site a process. */
const largeSegment = 8 * 1024 * 1024;

/**
 * Writes a stream to a hidden temporary neighbour of `path`, whole and on disk, with its size checked on the site.
 *
 * The site removes the temporary file itself when the upload fails, is aborted, or loses its connection for longer than `patience`;
 * disposing of the upload removes it unless it was published.
 *
 * @throws HpcsError `site`: disk full, quota, permission, no such directory, a directory of that name; `integrity` when bytes are lost
 */
export async function startUpload(
  transport: Transport,
  path: string,
  content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  options: UploadOptions = {},
): Promise<Upload> {
  const shipment = new Shipment(transport, path, content, options);
  try {
    await shipment.run();
  } catch (error) {
    throw await shipment.abandon(error);
  }
  return new Upload(transport, path, shipment, options);
}

/** The way of one stream to the site. */
class Shipment {
  readonly #transport: Transport;
  readonly #path: string;
  readonly #options: UploadOptions;
  readonly #outbox: Outbox;
  readonly #throttle: Throttle;
  readonly #patience: Patience;
  /** Names that the temporary file may have, the newest first: of a rename whose answer was lost nobody knows whether it was done. */
  #names: string[];
  /** Names of files that may have been made, but were never answered for before another one was. */
  #strays: string[] = [];
  /** Device and inode of the temporary file, once it is there. */
  #identity: string | undefined;

  constructor(
    transport: Transport,
    path: string,
    content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
    options: UploadOptions,
  ) {
    this.#transport = transport;
    this.#path = path;
    this.#options = options;
    this.#patience = new Patience(options);
    this.#outbox = new Outbox(content, options.memory, options.onProgress);
    this.#throttle = new Throttle(options.bandwidth);
    this.#names = [temporaryName(path)];
  }

  get temporary(): string {
    return this.#names[0] ?? '';
  }

  get size(): number {
    return this.#outbox.total;
  }

  get inode(): string {
    return this.#identity?.split(':')[1] ?? '';
  }

  /** Sends everything, over as many connections as it takes. */
  async run(): Promise<void> {
    for (;;) {
      try {
        await this.#connection();
        for (const name of this.#strays) await removeTemporary(this.#transport, name).catch(() => undefined);
        return;
      } catch (error) {
        await this.#patience.bear(error);
      }
      // Whatever is left of the old connection knows only the old name: it can remove nothing any more, but what was never answered for.
      this.#names = [temporaryName(this.#path), ...this.#names];
    }
  }

  /** Gives up: removes the temporary file as far as possible. @returns what is to be thrown */
  async abandon(reason: unknown): Promise<unknown> {
    this.#outbox.close(reason);
    const names = [...this.#names, ...this.#strays];
    if (reason instanceof HpcsError && isCut(reason)) {
      return new HpcsError('site', reason.code, reason.message, {
        cause: reason,
        suggestion: `run the command again; if it is still there, remove ${names.join(', ')} on the site`,
      });
    }
    for (const name of names) await removeTemporary(this.#transport, name).catch(() => undefined);
    return reason;
  }

  /** Sends what is left over one connection. */
  async #connection(): Promise<void> {
    const controller = new AbortController();
    const given = this.#options.signal;
    const signal = given === undefined ? controller.signal : AbortSignal.any([controller.signal, given]);
    const failures: unknown[] = [];
    const guarded = async (lane: Promise<void>): Promise<void> => {
      try {
        await lane;
      } catch (error) {
        failures.push(error);
        controller.abort(error);
      }
    };
    const further: Promise<void>[] = [];
    const measured = Promise.withResolvers<number>();
    const setLanes = (count: number, roundTrip: number): void => {
      measured.resolve(underWay.least + roundTrip * underWay.perMillisecond);
      for (let lane = 1; lane < count; lane++) further.push(guarded(this.#furtherLane(signal, measured.promise)));
    };
    await guarded(this.#firstLane(signal, measured.promise, setLanes));
    await Promise.all(further);
    given?.throwIfAborted();
    // The end of the connection is the reason for whatever else failed with it.
    if (failures.length > 0) throw failures.find(isCut) ?? failures[0];
  }

  /** Makes the file, or finds it again; measures the way; carries segments; and has the site keep it all. */
  async #firstLane(
    signal: AbortSignal,
    underWay: Promise<number>,
    setLanes: (count: number, roundTrip: number) => void,
  ): Promise<void> {
    const values = {
      temporary: plain(this.temporary),
      path: plain(this.#path),
      mode: (this.#options.mode ?? 0o600).toString(8).padStart(4, '0'),
      identity: this.#identity ?? '',
      grace: String(this.#options.patience ?? 0),
    };
    const names = this.#names.map((name) => quote(plain(name))).join(' ');
    const beginning = this.#identity === undefined ? createScript : `set -- ${names}\n${resumeScript}`;
    const answers = await this.#lane(beginning, values, { signal, underWay }, async function* (shipment, lane) {
      const made = shipment.#identity === undefined;
      shipment.#identity = await lane.answer('ready');
      if (made) shipment.#strays = shipment.#names.slice(1);
      shipment.#names = [shipment.temporary];
      shipment.#patience.renew();
      if (!shipment.#outbox.nearlyDone) {
        const roundTrip = new RoundTrip();
        while (!roundTrip.known) {
          const sent = performance.now();
          yield Buffer.from('ping 0\n');
          await lane.answer('pong');
          roundTrip.add(performance.now() - sent);
        }
        const count = Math.min(mostLanes, fewestLanes - 1 + Math.ceil(roundTrip.milliseconds / roundTripPerLane));
        if (count === fewestLanes) shipment.#outbox.segmentSize = largeSegment;
        if (count === mostLanes) shipment.#outbox.widen();
        setLanes(count, roundTrip.milliseconds);
      }
      yield* shipment.#segments(lane, signal);
      yield Buffer.from('end 0\n');
    });
    const size = Number(await answers.answer('end'));
    if (size === this.size) return;
    throw new HpcsError(
      'integrity',
      'upload-incomplete',
      `${this.size} bytes were sent for ${this.#path}, but the site has ${size}`,
      {
        suggestion: 'check the quota and the file system on the site, then run the command again',
      },
    );
  }

  /** Carries segments beside the first lane, if the site lets one more channel be opened. */
  async #furtherLane(signal: AbortSignal, underWay: Promise<number>): Promise<void> {
    const values = { temporary: plain(this.temporary), identity: this.#identity ?? '' };
    try {
      await this.#lane(furtherScript, values, { signal, underWay }, (shipment, lane) => shipment.#segments(lane, signal));
    } catch (error) {
      if (!(error instanceof HpcsError && error.code === 'session-refused')) throw error;
    }
  }

  /** Runs one channel to its end. @returns what it answered beside acknowledgements */
  async #lane(
    beginning: string,
    values: Readonly<Record<string, string>>,
    options: { signal: AbortSignal; underWay: Promise<number> },
    input: (shipment: this, lane: Answers) => AsyncGenerator<Uint8Array, void, undefined>,
  ): Promise<Answers> {
    const answers = new Answers();
    try {
      // Its process is gone before its segments are given back: whoever sends them next lets go of their memory.
      await using process = this.#transport.exec(preamble + assignments(values) + heedPipe + beginning + laneScript, {
        ...options,
        input: input(this, answers),
      });
      for await (const line of linesOf(process.stdout, { unended: false })) {
        const [word = '', value = ''] = line.split(' ');
        if (/^\d+$/.test(word)) this.#outbox.acknowledge(answers, Number(word), Number(value));
        else answers.put(word, value);
      }
      const { code, stderr } = await process.finished;
      if (code === replacedCode) throw replaced(this.temporary);
      if (code !== 0) throw fileError('write', this.#path, stderr, code);
      return answers;
    } finally {
      this.#outbox.giveBack(answers);
      answers.end();
    }
  }

  /** Segments one after the other, as long as any is left on any lane. */
  async *#segments(lane: Answers, signal: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
    for (let segment = await this.#outbox.take(lane); segment !== undefined; segment = await this.#outbox.take(lane)) {
      yield Buffer.from(`${segment.offset} ${segment.size}\n`);
      for (const block of segment.blocks) {
        await this.#throttle.pass(block.length, signal);
        yield block;
      }
    }
  }
}

/** Words that a lane answers, each with a value. */
class Answers {
  readonly #values = new Map<string, string[]>();
  #ended = false;
  #change = Promise.withResolvers<void>();

  put(word: string, value: string): void {
    this.#values.set(word, [...(this.#values.get(word) ?? []), value]);
    this.#changed();
  }

  /** No more will come. */
  end(): void {
    this.#ended = true;
    this.#changed();
  }

  /** The next value of a word; waits for it. */
  async answer(word: string): Promise<string> {
    for (;;) {
      const value = this.#values.get(word)?.shift();
      if (value !== undefined) return value;
      if (this.#ended) throw new HpcsError('site', 'upload-unanswered', `the site ended an upload without saying ${word}`);
      await this.#change.promise;
    }
  }

  #changed(): void {
    this.#change.resolve();
    this.#change = Promise.withResolvers<void>();
  }
}

const replacedCode = 74;

function replaced(path: string): HpcsError {
  return new HpcsError('integrity', 'upload-replaced', `somebody put another file in the place of ${path} on the site`, {
    suggestion: 'choose a directory in which nobody else may write',
  });
}

const checkDirectory = `
directory=\${path%/*}
[ "$directory" != "$path" ] || directory=.
[ -n "$directory" ] || directory=/
[ ! -d "$path" ] || { echo 'Is a directory' >&2; exit 1; }
[ -e "$directory" ] || { echo 'directory: No such file or directory' >&2; exit 1; }
[ -d "$directory" ] || { echo 'Not a directory' >&2; exit 1; }
`;

// The owner of the file removes it; other lanes only end.
const ownerScript = `
drop() { rm -f -- "$temporary"; exit "$1"; }
trap 'drop 129' HUP
trap 'drop 130' INT
trap 'drop 143' TERM
`;

// What can say nothing any more is to see that, not to be ended by it: else nobody would remove the file.
const heedPipe = `
trap '' PIPE
`;

const createScript = `
umask 077
${checkDirectory}${ownerScript}
set -C
exec 3>"$temporary" || exit 1
set +C
chmod -- "$mode" /proc/self/fd/3 || drop 1
printf 'ready %s\n' "$(stat -L -c %d:%i /proc/self/fd/3)" || drop 1
`;

const checkIdentity = `[ "$(stat -L -c %d:%i /proc/self/fd/3)" = "$identity" ] || exit ${replacedCode}
`;

// Opened to be written at once, a file that is gone by now would be made anew, and nobody would remove that.
const openExisting = `
[ -f "$temporary" ] || { echo 'what was uploaded is gone: No such file or directory' >&2; exit 1; }
exec 3<"$temporary" || exit 1
exec 3<>/proc/self/fd/3 || exit 1
`;

const resumeScript = `
for name do
  if [ "$name" != "$temporary" ] && [ -e "$name" ]; then mv -T -- "$name" "$temporary" || exit 1; fi
done
${openExisting}${checkIdentity}${ownerScript}
printf 'ready %s\n' "$identity"
`;

const furtherScript = `
drop() { exit "$1"; }
grace=
${openExisting}${checkIdentity}`;

/** Bytes after which the site begins to put them on disk, so that little is left to wait for at the end. */
const keepEvery = 64 * 1024 * 1024;

/** Segments from this size on have the pipe to the command widened. */
const widenFrom = 1024 * 1024;

/**
 * Gives the pipe through which sshd hands over what it received as much room as Linux lets everybody have, 1 MiB instead of 64 KiB: else
 * sshd and `dd` wait for each other 16,000 times a GiB, which takes a tenth of the processor time of both ends. Where there is no Perl, or
 * no pipe, nothing happens. In the background, where a shell gives a command no input of its own.
 *
 * @see fcntl(2), F_SETPIPE_SZ (1031); pipe(7), /proc/sys/fs/pipe-max-size
 */
const widenPipe = `{ timeout --foreground 5 perl -e 'fcntl(STDIN, 1031, 1048576)' <&4 4<&- >/dev/null 2>&1 & } 4<&0`;

// Written through the descriptor: the name could lead elsewhere by now. What ends early without a word may come back: then the file is
// kept for a while, under a name that who comes back changes. A process in the background must not hold the channel open. The system tells
// of bytes that it could not write only once, to whoever asks first: that must end everything.
const laneScript = `
self=$(exec sh -c 'echo $PPID')
keep() {
  said=$(sync "$@" /proc/self/fd/3 2>&1) || case $said in
    # What knows no fsync is as good as it gets; every other word may mean lost bytes.
    *'nvalid argument'* | *'not supported'* | *'not implemented'* | *'unrecognized'* | *'invalid option'*) ;;
    *) printf '%s\n' "$said" >&2; return 1 ;;
  esac
}
wide=
while read -r offset size; do
  case $offset in
    ping) echo pong ;;
    end)
      wait
      keep -- || drop 1
      printf 'end %s\n' "$(stat -L -c %s /proc/self/fd/3)" || drop 1
      exit 0 ;;
    *)
      if [ -z "$wide" ] && [ "$size" -ge ${widenFrom} ]; then wide=y; ${widenPipe}; fi
      dd bs=131072 iflag=fullblock,count_bytes oflag=seek_bytes conv=notrunc,nocreat status=none \\
        count="$size" seek="$offset" of=/proc/self/fd/3 || drop 1
      printf '%s %s\n' "$offset" "$size"
      if [ "$(((offset + size) / ${keepEvery}))" -gt "$((offset / ${keepEvery}))" ]; then
        { keep -d -- || { rm -f -- "$temporary"; kill -TERM "$self"; }; } </dev/null >/dev/null &
      fi ;;
  esac
done
wait
[ -n "$grace" ] || exit 0
[ "$grace" -gt 0 ] || drop 1
exec 3>&-
(trap '' HUP; sleep "$grace"; rm -f -- "$temporary") </dev/null >/dev/null 2>&1 &
exit 1
`;

/** A file that lies complete on the site under a temporary name. */
export class Upload implements AsyncDisposable {
  /** Where it was meant for. */
  readonly path: string;
  /** Where it lies. */
  readonly temporary: string;
  /** In bytes. */
  readonly size: number;
  readonly #transport: Transport;
  readonly #inode: string;
  readonly #options: UploadOptions;
  #published = false;
  /** Paths that it was to have, where nothing was before: of a rename whose answer is lost it may have one. */
  readonly #tried: string[] = [];

  constructor(
    transport: Transport,
    path: string,
    { temporary, size, inode }: { temporary: string; size: number; inode: string },
    options: UploadOptions,
  ) {
    this.#transport = transport;
    this.path = path;
    this.temporary = temporary;
    this.size = size;
    this.#inode = inode;
    this.#options = options;
  }

  /** Renames it into place. @see Upload.publishAs */
  publish(options: PublishOptions = {}): Promise<string> {
    return this.publishAs(this.path, options);
  }

  /**
   * Renames it into place or, where something is there already, beside that.
   *
   * @param suffix what the name has before its extension there
   * @returns where it is
   * @throws HpcsError `site`, code `site-exists` when both are taken
   */
  async publishBeside(suffix: string, options: FileOptions = {}): Promise<string> {
    try {
      return await this.publish(options);
    } catch (error) {
      if (!(error instanceof HpcsError && error.code === 'site-exists')) throw error;
    }
    return this.publishAs(beside(this.path, suffix), options);
  }

  /**
   * Renames it to `path`, in the same directory, in one step: who looks sees the old file, or none, or the whole new one. Tried again
   * for as long as the upload is.
   *
   * @returns `path`
   * @throws HpcsError `site`, code `site-exists` when something is there and `replace` is not set
   */
  async publishAs(path: string, options: PublishOptions = {}): Promise<string> {
    const values = {
      temporary: plain(this.temporary),
      path: plain(path),
      inode: this.#inode,
    };
    const script = preamble + assignments(values) + (options.replace === true ? replaceScript : publishScript) + renameScript;
    const signal = options.signal ?? this.#options.signal;
    if (options.replace !== true) this.#tried.push(path);
    const renamed = (): ReturnType<typeof run> => run(this.#transport, script, { signal });
    const { code, stderr } = await throughCuts(renamed, { ...this.#options, signal });
    if (code === takenCode) throw exists(path);
    if (code !== 0) throw fileError('publish', path, stderr, code);
    this.#published = true;
    return path;
  }

  /**
   * Removes the file unless it was published, under whatever name: with its temporary one or, where the answer to a rename was lost, with
   * that. What cannot be removed is said through `warn`.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#published) return;
    try {
      await removeTemporary(this.#transport, this.temporary);
      for (const path of this.#tried) await this.#removeOwn(path);
    } catch (error) {
      const names = [this.temporary, ...this.#tried].join(' or ');
      this.#options.warn?.(`the unpublished file ${names} may remain on the site (${messageOf(error)})`);
    }
  }

  async #removeOwn(path: string): Promise<void> {
    const values = { path: plain(path), inode: this.#inode };
    const { code, stderr } = await run(this.#transport, preamble + assignments(values) + removeOwnScript);
    if (code !== 0) throw fileError('remove', path, stderr, code);
  }
}

const takenCode = 73;

const replaceScript = `
publish() {
  [ ! -d "$path" ] || { echo 'Is a directory' >&2; return 1; }
  mv -f -T -- "$temporary" "$path"
}
`;

// A hard link never replaces anything; where the file system has none, `mv -n` leaves the source when something is there.
const publishScript = `
publish() {
  if [ -e "$path" ] || [ -L "$path" ]; then return ${takenCode}; fi
  if said=$(ln -T -- "$temporary" "$path" 2>&1); then
    rm -f -- "$temporary" || return 1
  else
    case $said in
      *'File exists'*) return ${takenCode} ;;
      *'not permitted'* | *'not supported'* | *'not implemented'* | *'Too many links'*)
        mv -n -T -- "$temporary" "$path" || return 1
        if [ -e "$temporary" ]; then return ${takenCode}; fi ;;
      *) printf '%s\\n' "$said" >&2; return 1 ;;
    esac
  fi
}
`;

// What fails may have been done by an earlier try, whose answer was lost.
const renameScript = `
publish || {
  code=$?
  [ "$(stat -c %i -- "$path" 2>/dev/null)" = "$inode" ] || exit "$code"
  rm -f -- "$temporary" || exit 1
}
sync -- "\${path%/*}/" 2>/dev/null || :
`;

const removeOwnScript = `
[ "$(stat -c %i -- "$path" 2>/dev/null)" != "$inode" ] || rm -f -- "$path"
`;

/** Does a step that can be done twice, again and again while the connection is cut. */
async function throughCuts<Result>(step: () => Promise<Result>, options: PatienceOptions): Promise<Result> {
  const patience = new Patience(options);
  for (;;) {
    try {
      return await step();
    } catch (error) {
      await patience.bear(error);
    }
  }
}

/** Uploads a stream and publishes it: {@link startUpload}, then {@link Upload.publish}. @returns its size in bytes */
export async function uploadFile(
  transport: Transport,
  content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  path: string,
  options: UploadOptions & PublishOptions = {},
): Promise<number> {
  await using upload = await startUpload(transport, path, content, options);
  await upload.publish(options);
  return upload.size;
}
