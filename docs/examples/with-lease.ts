/** One process at a time changes a search index. Each function claims the lease that it needs, also when another function calls it. */
import type { Manager } from 'lease-core'
import { withLease } from 'lease-recipes'

export interface SearchIndex {
  load(signal: AbortSignal): Promise<void>
  rebuild(signal: AbortSignal, fencingToken: bigint): Promise<void>
}

/** Waits until nobody else works on the index, then rebuilds it. */
export async function rebuild(manager: Manager, index: SearchIndex): Promise<void> {
  const options = { duration: { seconds: 30 }, wait: { minutes: 5 } }
  await withLease(manager, 'search-index', options, ({ signal, fencingToken }) => index.rebuild(signal, fencingToken))
}

/** Loads new data and rebuilds the index under one lease. */
export async function reload(manager: Manager, index: SearchIndex): Promise<void> {
  const options = { duration: { seconds: 30 }, wait: true }
  await withLease(manager, 'search-index', options, async ({ signal }) => {
    await index.load(signal)
    await rebuild(manager, index) // joins: it neither waits nor releases
  })
}
