/**
 * One process of the race: its holders claim for a few milliseconds, or a few more, dawdle, and write; some renew or release,
 * most just stop. They race in the way that they are notified, until they are notified another.
 */
import { ErrNotHeld } from 'lease-core'
import type { Substrate } from 'lease-core/adapter'
import { kinds, loadStore, nowMs, record, whenTold, workerEntry } from 'lease-chaos/worker'
import { briefMs, claim, extend, newCall, release, settle, sleep } from 'lease-scenes'
import { openSubstrate } from './substrates.ts'

/** What to do from now on; nothing when there are no leases. */
export interface Order {
  readonly way: string
  readonly leases: readonly string[]
}

const HOLDERS = 8

const entry = workerEntry()
const kind = kinds[entry.kind]
let order: Order = { way: '', leases: [] }
whenTold((next) => (order = next as Order))
await loadStore(entry.kind)

/** The fencing token of a new term, if there is one. A store without a clock wants to be watched while the lease lapses. */
async function granted(substrate: Substrate, lease: string, holder: string, ms: number): Promise<bigint | undefined> {
  let [verdict] = await substrate.apply([claim(lease, holder, ms)], newCall())
  if (verdict?.outcome === 'refused' && substrate.time === undefined) {
    const { version: lapsed, remainingMs = 0 } = verdict.holding ?? {}
    await sleep(remainingMs + 2)
    verdict = await settle(substrate, claim(lease, holder, ms, { lapsed }))
  }
  return verdict?.outcome === 'granted' ? verdict.holding?.fencingToken : undefined
}

async function race(holder: string): Promise<never> {
  const teller = kind.openTeller(entry)
  const substrate = openSubstrate(entry)
  for (;;) {
    const { way, leases } = order
    const lease = leases[Math.floor(Math.random() * leases.length)]
    if (lease === undefined) {
      await sleep(20)
      continue
    }
    const durationMs = briefMs()
    const token = await granted(substrate, lease, holder, durationMs)
    if (token === undefined) {
      await sleep(1)
      continue
    }
    const told = (what: string, detail?: string | void): void =>
      record({ what, lease, token: String(token), atMs: nowMs(), ...(typeof detail === 'string' && { detail }) })
    told('granted')
    const check = async (key?: unknown): Promise<void> => {
      if (key !== undefined) return substrate.trapdoor(lease, holder, token)(key)
      const held = (await substrate.read([lease], newCall())).get(lease)
      if (held?.holder !== holder || held.fencingToken !== token) throw new ErrNotHeld('not held')
    }
    await teller.granted?.({ lease, token, check })
    if (Math.random() < 0.3) {
      await substrate.apply([extend(lease, holder, durationMs, { fencingToken: token })], newCall())
    }
    try {
      told('written', await teller.write(way, { lease, token, check }))
    } catch (error) {
      if (!(error instanceof ErrNotHeld)) throw error
      told('refused')
    }
    if (Math.random() < 0.3) await settle(substrate, release(lease, holder, { fencingToken: token }))
  }
}

await Promise.all(Array.from({ length: HOLDERS }, (_, index) => race(`${entry.name}-${index}`)))
