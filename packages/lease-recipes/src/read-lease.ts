import type { Info, Manager } from 'lease-core'

/** One lease, freshly read; a store that is out of reach is waited for as long as the signal allows. */
export async function readLease(
  manager: Pick<Manager, 'observe'>,
  lease: string,
  signal: AbortSignal,
): Promise<Info | undefined> {
  for await (const info of manager.observe(lease, { signal })) return info
  return undefined // an observation has a first state, or throws
}
