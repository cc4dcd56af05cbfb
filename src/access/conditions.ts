import type { Conditions } from '../hpcs.ts';
import { imageDigest, type NamingContext } from './artefact.ts';

/** Conditions from the flags `--grant-…`; undefined without any. @throws HpcsError as {@link imageDigest} */
export async function conditionsOf(
  flags: { 'grant-image'?: string | undefined; 'grant-until'?: string | undefined; 'grant-jobs'?: number | undefined },
  context: NamingContext,
): Promise<Conditions | undefined> {
  const { 'grant-image': image, 'grant-until': until, 'grant-jobs': jobs } = flags;
  if (image === undefined && until === undefined && jobs === undefined) return undefined;
  return {
    ...(image === undefined ? {} : { image: await imageDigest(image, context) }),
    ...(until === undefined ? {} : { until }),
    ...(jobs === undefined ? {} : { jobs }),
  };
}
