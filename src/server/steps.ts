import type { HpcsError } from '../errors.ts';
import { asHpcsError } from '../report.ts';

/** What one look found. `wrong` is what nobody but a person can put right. */
export type Finding = { state: 'right' } | { state: 'missing' | 'wrong' | 'unknown'; why: string };

/** One thing that has to be so, and how to make it so. */
export interface Step {
  what: string;
  look: () => Promise<Finding>;
  /** Makes it right where it is missing. */
  make?: () => Promise<void>;
}

/** What became of a step. */
export interface StepReport {
  what: string;
  /** `done`: it was missing, and was made. */
  state: 'right' | 'done' | 'missing' | 'wrong' | 'unknown';
  why?: string;
}

/**
 * Goes through steps, each of which may rest on those before it: what is right is left alone, so that all of it may be repeated.
 *
 * @param options.check only look
 * @returns a report of each
 */
export async function goThrough(
  steps: readonly Step[],
  options: { check: boolean; signal?: AbortSignal | undefined; report?: (report: StepReport) => void },
): Promise<StepReport[]> {
  const reports: StepReport[] = [];
  for (const step of steps) {
    options.signal?.throwIfAborted();
    const report = { what: step.what, ...(await outcome(step, options.check)) };
    reports.push(report);
    options.report?.(report);
  }
  return reports;
}

async function outcome(step: Step, check: boolean): Promise<Omit<StepReport, 'what'>> {
  try {
    const found = await step.look();
    if (found.state !== 'missing' || check || step.make === undefined) return found;
    await step.make();
    const now = await step.look();
    return now.state === 'right' ? { state: 'done', why: found.why } : now;
  } catch (error) {
    const { message, suggestion }: HpcsError = asHpcsError(error, 'hpcs server bootstrap');
    return { state: 'wrong', why: suggestion === undefined ? message : `${message} (${suggestion})` };
  }
}

/** Nothing to do. */
export const right: Finding = { state: 'right' };

/** To be made. */
export function missing(why: string): Finding {
  return { state: 'missing', why };
}

/** To be put right by a person. */
export function wrong(why: string): Finding {
  return { state: 'wrong', why };
}

/** Not to be seen from here. */
export function unknown(why: string): Finding {
  return { state: 'unknown', why };
}
