import { HpcsError } from '../errors.ts';
import { linesOf } from '../lines.ts';
import { pause } from '../pause.ts';
import type { BlockMemory } from '../seal/bytes.ts';
import { fileError, removeTemporary, temporaryName } from './files.ts';
import { Outbox } from './outbox.ts';
import { Patience, type PatienceOptions } from './patience.ts';
import { RoundTrip } from './round-trip.ts';
import { isCut } from './ssh-errors.ts';
import { Throttle } from './throttle.ts';
import type { Transport } from './transport.ts';
import { firstLaneScript, furtherLaneScript, replacedCode } from './upload-script.ts';

/** Options of a {@link Shipment}. */
export interface ShipmentOptions extends PatienceOptions {
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
/** How long a channel that finds no file waits for what the first one, which made it, has to say, in milliseconds. */
const firstWord = 5000;
/** On the shortest way segments are larger: each costs the site a process. */
const largeSegment = 8 * 1024 * 1024;

/** The way of one stream to the site. */
export class Shipment {
  readonly #transport: Transport;
  readonly #path: string;
  readonly #options: ShipmentOptions;
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
    options: ShipmentOptions,
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
    const script = firstLaneScript({
      names: this.#names,
      path: this.#path,
      mode: this.#options.mode ?? 0o600,
      identity: this.#identity,
      grace: this.#options.patience ?? 0,
    });
    const answers = await this.#lane(script, { signal, underWay }, async function* (shipment, lane) {
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
    const script = furtherLaneScript(this.temporary, this.#identity ?? '');
    try {
      await this.#lane(script, { signal, underWay }, (shipment, lane) => shipment.#segments(lane, signal));
    } catch (error) {
      const code = error instanceof HpcsError ? error.code : '';
      if (code === 'session-refused') return;
      // The first lane removes the file when it cannot go on, and its reason may be on the way still.
      if (code === 'site-not-found') await pause(firstWord, undefined, signal);
      throw error;
    }
  }

  /** Runs one channel to its end. @returns what it answered beside acknowledgements */
  async #lane(
    script: string,
    options: { signal: AbortSignal; underWay: Promise<number> },
    input: (shipment: this, lane: Answers) => AsyncGenerator<Uint8Array, void, undefined>,
  ): Promise<Answers> {
    const answers = new Answers();
    try {
      // Its process is gone before its segments are given back: whoever sends them next lets go of their memory.
      await using process = this.#transport.exec(script, { ...options, input: input(this, answers) });
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
      if (this.#ended) throw unanswered(word);
      await this.#change.promise;
    }
  }

  #changed(): void {
    this.#change.resolve();
    this.#change = Promise.withResolvers<void>();
  }
}

function unanswered(word: string): HpcsError {
  return new HpcsError('site', 'upload-unanswered', `the site ended an upload without saying ${word}`, {
    suggestion: 'check that the account may run commands there, and that what they print comes back: ssh HOST echo ready',
  });
}

function replaced(path: string): HpcsError {
  return new HpcsError('integrity', 'upload-replaced', `somebody put another file in the place of ${path} on the site`, {
    suggestion: 'choose a directory in which nobody else may write',
  });
}
