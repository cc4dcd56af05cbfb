import { setTimeout as sleep } from 'node:timers/promises';

/** Waits; `signal` ends that with an error, `early` without. */
export async function pause(milliseconds: number, signal: AbortSignal | undefined, early?: AbortSignal): Promise<void> {
  const signals = [signal, early].filter((one) => one !== undefined);
  await sleep(milliseconds, undefined, { signal: AbortSignal.any(signals) }).catch(() => undefined);
  signal?.throwIfAborted();
}
