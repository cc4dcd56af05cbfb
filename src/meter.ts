/** Where a {@link Meter} shows itself. */
export interface MeterOptions {
  /** What is being done, for example `sealing and shipping data.tgz`. */
  label: string;
  /** A terminal gets one line that changes; a program a JSON record a second; anything else a line now and then. */
  reader: 'terminal' | 'program' | 'log';
  write: (text: string) => void;
  /** Milliseconds since some moment. */
  clock?: () => number;
}

/** Milliseconds between two reports. */
const intervals = { terminal: 200, program: 1000, log: 10_000 } as const;

/** Progress of a stream, told in bytes, rate and time left. Silent for what is quick. */
export class Meter implements Disposable {
  readonly #options: MeterOptions;
  #total: number | undefined;
  readonly #clock: () => number;
  readonly #start: number;
  #shown: number;
  #visible = false;
  #over = false;

  constructor(options: MeterOptions) {
    this.#options = options;
    this.#clock = options.clock ?? (() => performance.now());
    this.#start = this.#clock();
    // On a terminal first after a second.
    this.#shown = this.#start + (options.reader === 'terminal' ? 1000 - intervals.terminal : 0);
  }

  /** Tells how many bytes there are in all, where that is known. */
  expect(total: number): void {
    this.#total = total;
  }

  /** Tells how many bytes are done by now. Nothing is shown once it was disposed of. */
  readonly update = (done: number): void => {
    if (this.#over) return;
    const { reader, write, label } = this.#options;
    const now = this.#clock();
    if (now - this.#shown < intervals[reader]) return;
    this.#shown = now;
    const seconds = (now - this.#start) / 1000;
    if (reader === 'program') {
      write(`${JSON.stringify({ progress: { stage: label, ...progressOf(done, this.#total, seconds) } })}\n`);
      return;
    }
    const text = `${label}: ${describeProgress(done, this.#total, seconds)}`;
    write(reader === 'terminal' ? `\r\u001B[K${text}` : `${text}\n`);
    this.#visible = reader === 'terminal';
  };

  /** Clears the line of a terminal, where it shows one, so that another can be written there. */
  clear(): void {
    if (this.#visible) this.#options.write('\r\u001B[K');
    this.#visible = false;
  }

  /** Clears the line for good. */
  [Symbol.dispose](): void {
    this.#over = true;
    this.clear();
  }
}

/**
 * How much of a content has arrived, where what is sent is another form of it: of the bytes read so far, the share that has arrived of
 * what they became.
 */
export class Shipped {
  readonly #tell: (bytes: number) => void;
  #read = 0;
  #share = 0;
  #told = 0;

  /** @param tell given bytes of the content */
  constructor(tell: (bytes: number) => void) {
    this.#tell = tell;
  }

  /** So many bytes of the content were read. */
  readonly read = (bytes: number): void => {
    this.#read = bytes;
    this.#say();
  };

  /** Of so many bytes that were made, so many have arrived. */
  readonly arrived = (bytes: number, made: number): void => {
    this.#share = made === 0 ? 0 : bytes / made;
    this.#say();
  };

  // Never less than before, as it would be where what is read later becomes more than what came before.
  #say(): void {
    this.#told = Math.max(this.#told, Math.floor(this.#read * this.#share));
    this.#tell(this.#told);
  }
}

/** How far something is, in bytes and seconds. */
interface Progress {
  bytes: number;
  total?: number;
  bytesPerSecond: number;
  secondsLeft?: number;
}

function progressOf(done: number, total: number | undefined, seconds: number): Progress {
  const rate = done / Math.max(seconds, 0.001);
  const progress: Progress = { bytes: done, bytesPerSecond: Math.round(rate) };
  if (total === undefined || total < done) return progress;
  progress.total = total;
  if (rate > 0) progress.secondsLeft = Math.ceil((total - done) / rate);
  return progress;
}

/** `1.2 GB of 3.4 GB, 120 MB/s, 18 s left`. Pure; `seconds` is the time since the start. */
export function describeProgress(done: number, total: number | undefined, seconds: number): string {
  const progress = progressOf(done, total, seconds);
  const parts = [
    progress.total === undefined ? bytes(done) : `${bytes(done)} of ${bytes(progress.total)}`,
    `${bytes(progress.bytesPerSecond)}/s`,
  ];
  if (progress.secondsLeft !== undefined) parts.push(`${duration(progress.secondsLeft)} left`);
  return parts.join(', ');
}

/** A number of bytes in decimal units, as disks and networks count them. */
function bytes(count: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

function duration(whole: number): string {
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
