import { inspect } from 'node:util';

/**
 * A key, token or password. Its string, JSON and inspect forms are `[redacted]`, so that no log line, error message or
 * `--json` output can show it by accident; the value comes out only where somebody writes {@link Secret.reveal} or {@link Secret.bytes}.
 */
export class Secret implements Disposable {
  readonly #value: Buffer;

  constructor(value: string | Uint8Array) {
    this.#value = typeof value === 'string' ? Buffer.from(value, 'utf8') : Buffer.from(value);
  }

  /** The secret as text. The caller must not put it into argv, an environment, a log or a file outside private storage. */
  reveal(): string {
    return this.#value.toString('utf8');
  }

  /** The secret's own bytes, not a copy: gone when this is disposed of. */
  bytes(): Uint8Array {
    return this.#value;
  }

  toString(): string {
    return '[redacted]';
  }

  toJSON(): string {
    return '[redacted]';
  }

  [inspect.custom](): string {
    return '[redacted]';
  }

  /** Overwrites the bytes held here. Copies that `reveal` made are the garbage collector's. */
  [Symbol.dispose](): void {
    this.#value.fill(0);
  }
}
