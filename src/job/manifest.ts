import { timingSafeEqual } from 'node:crypto';
import { z } from 'zod';
import { HpcsError, type ErrorDetails } from '../errors.ts';
import { sealFormats } from '../seal/format.ts';
import type { Secret } from '../secret.ts';
import { jobMac } from './mac.ts';

/** Names of the files in a job's result directory. */
export const resultFiles = {
  /** The sealed archive of `/sd-container/output`. */
  sealed: 'encrypted_output.tgz',
  manifest: 'manifest.json',
  /** Ciphertext of the output volume, kept for as long as the sealed archive is not there. */
  outputVolume: 'output.volume',
  /** The output volume's password, sealed to the result key, so that a killed job's output survives. */
  outputVolumeKey: 'output.volume.key',
} as const;

const schema = z.object({
  version: z.literal(1),
  job: z.object({ id: z.string(), name: z.string(), restart: z.number().int() }),
  /** The id of an artefact that the original prepared is null. */
  image: z.object({ artefact: z.string().nullable(), sha512: z.string() }),
  data: z.object({ artefact: z.string().nullable(), sha512: z.string() }),
  /** Flags of the user for Apptainer, as they were given. */
  flags: z.array(z.string()),
  /** Exit code of the application, null when it did not end by itself. */
  exitCode: z.number().int().nullable(),
  /** Why the results are partial (`time limit or cancel`), or null when they are whole. */
  partial: z.string().nullable(),
  result: z.object({
    sha512: z.string(),
    size: z.number().int(),
    /** Bytes of the archive that is sealed, uncompressed. Jobs of earlier versions did not tell. */
    plain: z.number().int().optional(),
    format: z.enum(sealFormats),
  }),
  finished: z.string(),
});

/** What a job says of its results, under a key that only the job and its submitter know. */
export type ResultManifest = z.output<typeof schema>;

const envelope = z.object({ payload: z.string(), hmac: z.string().regex(/^[0-9a-f]{64}$/) });

function mac(key: Secret, payload: string): Buffer {
  return jobMac(key, 'hpcs result manifest 1\n', payload);
}

/**
 * The text of `manifest.json`: the payload as a JSON string and its HMAC-SHA256.
 *
 * @param key authentication key of the job, 32 bytes in hex
 * @see RFC 2104
 */
export function renderManifest(manifest: ResultManifest, key: Secret): string {
  const payload = JSON.stringify(manifest);
  return `${JSON.stringify({ payload, hmac: mac(key, payload).toString('hex') }, null, 1)}\n`;
}

/**
 * Reads `manifest.json`; nothing in it is looked at before its HMAC holds.
 *
 * @throws HpcsError `integrity` `manifest-forged` or `manifest-invalid`
 */
export function parseManifest(content: string, key: Secret): ResultManifest {
  const outer = envelope.safeParse(parseJson(content));
  if (!outer.success)
    throw invalid('it is not a result manifest', {
      cause: outer.error,
      suggestion: 'do not use these results; tell the site, and submit the job again',
    });
  const expected = mac(key, outer.data.payload);
  if (!timingSafeEqual(expected, Buffer.from(outer.data.hmac, 'hex'))) {
    throw new HpcsError(
      'integrity',
      'manifest-forged',
      'the result manifest was not made by the job: its authentication code is wrong',
      {
        suggestion: 'do not use these results; tell the site, and submit the job again',
      },
    );
  }
  const inner = schema.safeParse(parseJson(outer.data.payload));
  if (!inner.success)
    throw invalid('its content has an unknown form', {
      cause: inner.error,
      suggestion: 'open the results with the version of hpcs-client that submitted the job',
    });
  return inner.data;
}

function parseJson(content: string): unknown {
  try {
    return JSON.parse(content);
  } catch {
    return undefined;
  }
}

function invalid(what: string, details: ErrorDetails): HpcsError {
  return new HpcsError('integrity', 'manifest-invalid', `the result manifest is not valid: ${what}`, details);
}
