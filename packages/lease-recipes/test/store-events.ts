/** What the suites of the recipes wait for in place of a time: refusals and renewals. */
import type { HoldOptions, Manager } from 'lease-core'
import type { Store } from './stores.ts'

/** Resolves when the store refuses the next claim of this manager: anyone who made it waits from now on, if it waits at all. */
export function refusal(manager: Manager): Promise<void> {
  return new Promise((resolve) => {
    const unsubscribe = manager.events.subscribe(({ type }) => {
      if (type !== 'denied') return
      unsubscribe()
      resolve()
    })
  })
}

/** The manager, with other methods. */
export function replaced(manager: Manager, methods: object): Manager {
  return new Proxy(manager, {
    get: (target, name) => {
      const member: unknown = Reflect.get(name in methods ? methods : target, name)
      return typeof member === 'function' ? (member as (...args: unknown[]) => unknown).bind(target) : member
    },
  })
}

/**
 * The manager, whose Holds are renewed this often unless the recipe says otherwise. A lease is then long enough for a slow
 * machine, and a test need not wait for a third of it to see a renewal.
 */
export function renewingEvery(manager: Manager, renewEvery: number): Manager {
  return replaced(manager, {
    hold: (lease: string, holder: string, options: HoldOptions) =>
      manager.hold(lease, holder, { renewEvery, ...options }),
    holdAny: (leases: readonly string[], holder: string, options: HoldOptions) =>
      manager.holdAny(leases, holder, { renewEvery, ...options }),
  })
}

/** Resolves when the store has renewed each of these three times: its expiry has advanced as often. @throws when one is vacant */
export async function renewedThrice(store: Store, reader: Manager, ...leases: readonly string[]): Promise<void> {
  const seen = leases.map((lease) => ({ lease, expiryMs: Number.NEGATIVE_INFINITY, renewals: -1 }))
  await store.until('three renewals', async () => {
    const held = await reader.leases()
    for (const one of seen) {
      const expiryMs = held.get(one.lease)?.expiry.toMillis()
      if (expiryMs === undefined) throw new Error(`"${one.lease}" is vacant`)
      // One expiry read twice may differ by a little, because clocks are compared on the way.
      if (expiryMs < one.expiryMs + store.unitMs / 10) continue
      one.expiryMs = expiryMs
      one.renewals++
    }
    return seen.every(({ renewals }) => renewals >= 3)
  })
}
