/** A search index that one process at a time changes. Each function takes the lease that it needs, also when another calls it. */
import type { Manager } from 'lease-core'
import { withLease } from 'lease-recipes'

export interface SearchIndex {
  load(signal: AbortSignal): Promise<void>
  rebuild(signal: AbortSignal, fencingToken: bigint): Promise<void>
}

/** Rebuilds the index when nobody else works on it. */
export async function rebuild(manager: Manager, index: SearchIndex): Promise<void> {
  const options = { duration: { seconds: 30 }, wait: { minutes: 5 } }
  await withLease(manager, 'search-index', options, ({ signal, fencingToken }) => index.rebuild(signal, fencingToken))
}

/** Loads new data and rebuilds the index, without anybody in between. */
export async function reload(manager: Manager, index: SearchIndex): Promise<void> {
  const options = { duration: { seconds: 30 }, wait: true }
  await withLease(manager, 'search-index', options, async ({ signal }) => {
    await index.load(signal)
    await rebuild(manager, index) // joins: it neither waits nor releases
  })
}
