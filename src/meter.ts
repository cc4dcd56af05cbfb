/** Where a {@link Meter} shows itself. */
export interface MeterOptions {
  /** What is being done, for example `sealing and shipping data.tgz`. */
  label: string;
  /** Bytes in all, where they are known. */
  total?: number | undefined;
  /** A terminal gets one line that changes; anything else a line now and then. */
  terminal: boolean;
  write: (text: string) => void;
  /** Milliseconds since some moment. */
  clock?: () => number;
}

const terminalInterval = 200;
const plainInterval = 10_000;

/** Progress of a stream, told in bytes, rate and time left. Silent for what is quick. */
export class Meter implements Disposable {
  readonly #options: MeterOptions;
  readonly #clock: () => number;
  readonly #start: number;
  #shown: number;
  #visible = false;

  constructor(options: MeterOptions) {
    this.#options = options;
    this.#clock = options.clock ?? (() => performance.now());
    this.#start = this.#clock();
    // On a terminal first after a second.
    this.#shown = this.#start + (options.terminal ? 1000 - terminalInterval : 0);
  }

  /** Tells how many bytes are done by now. */
  readonly update = (done: number): void => {
    const { terminal, write, label, total } = this.#options;
    const now = this.#clock();
    if (now - this.#shown < (terminal ? terminalInterval : plainInterval)) return;
    this.#shown = now;
    const text = `${label}: ${describeProgress(done, total, (now - this.#start) / 1000)}`;
    write(terminal ? `\r\u001B[K${text}` : `${text}\n`);
    this.#visible = terminal;
  };

  /** Clears the line of a terminal. */
  [Symbol.dispose](): void {
    if (this.#visible) this.#options.write('\r\u001B[K');
  }
}

/** `1.2 GB of 3.4 GB, 120 MB/s, 18 s left`. Pure; `seconds` is the time since the start. */
export function describeProgress(done: number, total: number | undefined, seconds: number): string {
  const rate = done / Math.max(seconds, 0.001);
  const known = total !== undefined && total >= done;
  const parts = [known ? `${bytes(done)} of ${bytes(total)}` : bytes(done), `${bytes(rate)}/s`];
  if (known && rate > 0) parts.push(`${duration((total - done) / rate)} left`);
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

function duration(seconds: number): string {
  const whole = Math.ceil(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
