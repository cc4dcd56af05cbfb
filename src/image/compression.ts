import { assignments } from '../shell.ts';
import { run } from '../site/files.ts';
import type { Transport } from '../site/transport.ts';
import type { SifCompression } from './squashfs.ts';

/**
 * Asks the site's login node which SquashFS compression fits it. The compute nodes may differ; what they have cannot be seen before
 * a job runs there.
 *
 * @param apptainer the program as the configuration names it
 * @throws HpcsError `site` when the site cannot be asked
 */
export async function siteCompression(
  transport: Transport,
  apptainer: string,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<SifCompression> {
  return fittingCompression((await run(transport, compressionProbe(apptainer), options)).stdout);
}

/**
 * POSIX shell text for the site: three facts by which {@link fittingCompression} chooses. Each line may be missing.
 */
export const compressionProbe = (apptainer: string): string => `${assignments({ apptainer })}echo "kernel $(uname -r)"
{ "$apptainer" --version || apptainer --version || singularity --version; } 2>/dev/null | sed 's/^/program /;q'
{ cat "/boot/config-$(uname -r)" "/lib/modules/$(uname -r)/config" || zcat /proc/config.gz; } 2>/dev/null | grep SQUASHFS_ZSTD | sed 's/^/config /;q'
`;

/**
 * The SquashFS compression that a site can read: zstd, which is made and read much faster, where nothing speaks against it; gzip
 * where the kernel is older than zstd in SquashFS (Linux 4.14), was built without it, or the program is older than Apptainer 1.0
 * and SingularityCE 3.8. Pure.
 *
 * @param facts what {@link compressionProbe} printed
 */
export function fittingCompression(facts: string): SifCompression {
  const [, major = 0, minor = 0] = (/^kernel (\d+)\.(\d+)/m.exec(facts) ?? []).map(Number);
  if (major < 4 || (major === 4 && minor < 14)) return 'gzip';
  if (/^config .*is not set/m.test(facts)) return 'gzip';
  const [, first = Infinity, second = 0] = (/^program singularity\S* (?:version )?(\d+)\.(\d+)/m.exec(facts) ?? []).map(Number);
  if (first < 3 || (first === 3 && second < 8)) return 'gzip';
  return 'zstd';
}
