/** `lease show`: everything about one lease. */
import type { CountedInfo } from 'lease-core'
import type { Context } from '../context.ts'
import { showDuration } from '../durations.ts'
import { EXIT } from '../exit-codes.ts'
import { expiresInMs, leaseFields, leaseJson, viewOf, type LeaseView } from '../lease-view.ts'
import type { Store } from '../store.ts'

/** Writes one lease, or the shares of a counted lease. Returns 1 if nobody holds it. */
export async function show(context: Context, name: string): Promise<number> {
  return context.withStore(async (store, signal) => {
    const [info, pins, counted] = await Promise.all([
      store.manager.find(name, { signal }),
      store.manager.pinned().then((all) => all.get(name) ?? []),
      countedOf(store, name),
    ])
    const nowMs = context.now()
    const { out } = context
    const view: LeaseView | undefined = info === undefined ? undefined : viewOf(name, info, pins)
    const shares = [...(counted?.shares ?? [])].map(([lease, share]) => viewOf(lease, share))
    if (out.json) {
      out.object({
        ...(view === undefined ? { lease: name, holder: null, pinned: pins.length > 0, pins } : leaseJson(view, nowMs)),
        ...(counted === undefined
          ? {}
          : { capacity: counted.capacity, shares: shares.map((one) => leaseJson(one, nowMs)) }),
      })
    } else if (view === undefined && counted === undefined) {
      out.note(`nobody holds ${name}${pins.length === 0 ? '' : `; pinned for its next holder by ${pins.join(', ')}`}`)
    } else {
      await out.fields([
        ...(view === undefined ? [['lease', name] as const] : leaseFields(view, nowMs)),
        ...(counted === undefined ? [] : countedFields(counted, shares, nowMs)),
      ])
    }
    return view === undefined && shares.length === 0 ? EXIT.no : EXIT.ok
  })
}

/** undefined: the store keeps no counted leases, there is none of this name, or the name is that of a share. */
async function countedOf({ client, manager }: Store, name: string): Promise<CountedInfo | undefined> {
  if (client.counted === undefined || name.includes('#')) return undefined
  const counted = await manager.counted(name)
  return counted.capacity === undefined && counted.shares.size === 0 ? undefined : counted
}

function countedFields(
  { capacity }: CountedInfo,
  shares: readonly LeaseView[],
  nowMs: number,
): (readonly [name: string, value: string])[] {
  const taken = shares.reduce((sum, { info }) => sum + (info.weight ?? 1), 0)
  return [
    ['permits', `${taken} of ${capacity ?? 'none (not defined any more)'} taken`],
    ...shares.map((share): readonly [string, string] => [
      '  share',
      `${share.info.holder}: ${share.info.weight ?? 1}, expires in ${showDuration(expiresInMs(share, nowMs))}, fencing token ${share.info.fencingToken}`,
    ]),
  ]
}
