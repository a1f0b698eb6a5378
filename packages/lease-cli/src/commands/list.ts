/** `lease list`: which leases are held. */
import { sleep } from 'lease-core'
import type { Context } from '../context.ts'
import { parseDuration } from '../durations.ts'
import { EXIT, wrongUsage } from '../exit-codes.ts'
import { expiresInMs, heldForMs, leaseColumns, leaseJson, viewOf, type LeaseView } from '../lease-view.ts'
import type { Store } from '../store.ts'

/** The flags of `lease list`. */
export interface ListFlags {
  readonly heldBy?: string
  readonly expiring?: string
  readonly olderThan?: string
  readonly pinned?: boolean
  readonly sort?: string
  readonly limit?: string
  readonly watch?: boolean
  readonly every?: string
}

const COMPARE: Readonly<Record<string, (a: LeaseView, b: LeaseView) => number>> = {
  name: (a, b) => compare(a.lease, b.lease),
  holder: (a, b) => compare(a.info.holder, b.info.holder) || compare(a.lease, b.lease),
  since: (a, b) => (a.sinceMs ?? 0) - (b.sinceMs ?? 0) || compare(a.lease, b.lease),
  expires: (a, b) => a.expiryMs - b.expiryMs || compare(a.lease, b.lease),
  token: (a, b) => compare(a.info.fencingToken, b.info.fencingToken),
}

/** The orders that `--sort` knows. */
export const SORTS: readonly string[] = Object.keys(COMPARE)

/** Writes the leases that are held. */
export async function list(context: Context, pattern: string | undefined, flags: ListFlags): Promise<number> {
  const wanted = filterOf(pattern, flags)
  const order = COMPARE[flags.sort ?? 'name']
  if (order === undefined) throw wrongUsage(`--sort must be one of ${SORTS.join(', ')} (got ${flags.sort})`)
  const limit = limitOf(flags.limit)
  const everyMs = parseDuration(flags.every ?? '2s', '--every')
  return context.withStore(async (store, signal) => {
    if (flags.watch !== true) {
      await show(context, { all: await read(store, wanted, context.now()), order, limit })
      return EXIT.ok
    }
    const changes = new Changes()
    for (;;) {
      const all = await read(store, wanted, context.now())
      if (context.out.json)
        changes.report(all, (change) => context.out.object({ ...change, at: context.now() }), context.now())
      else {
        context.out.clear()
        await show(context, { all, order, limit })
      }
      await sleep(context.io.clock, everyMs, signal)
    }
  })
}

async function show(
  context: Context,
  { all, order, limit }: { all: LeaseView[]; order: (a: LeaseView, b: LeaseView) => number; limit: number },
): Promise<void> {
  const { out } = context
  const nowMs = context.now()
  const rows = all.toSorted(order).slice(0, limit)
  if (out.json) return out.array(jsonOf(rows, nowMs))
  if (all.length === 0) return out.note('no lease is held')
  await out.table(leaseColumns(nowMs), rows)
  if (rows.length < all.length) out.note(`${all.length - rows.length} more: raise --limit`)
}

/** One by one, so that a hundred thousand objects need not be there at once. */
function* jsonOf(rows: readonly LeaseView[], nowMs: number): Generator<object> {
  for (const row of rows) yield leaseJson(row, nowMs)
}

const NOBODY: readonly string[] = []

type Filter = (view: LeaseView, nowMs: number) => boolean

async function read(store: Store, wanted: Filter, nowMs: number): Promise<LeaseView[]> {
  const leases = await store.manager.leases()
  let anyPinned = false
  for (const info of leases.values()) anyPinned ||= info.pinned
  const pinned = anyPinned ? await store.manager.pinned() : undefined
  const found: LeaseView[] = []
  for (const [lease, info] of leases) {
    const view = viewOf(lease, info, info.pinned ? pinned?.get(lease) : NOBODY)
    if (wanted(view, nowMs)) found.push(view)
  }
  return found
}

function filterOf(pattern: string | undefined, flags: ListFlags): Filter {
  const matches = pattern === undefined ? undefined : glob(pattern)
  const { heldBy, pinned } = flags
  const expiringMs = flags.expiring === undefined ? undefined : parseDuration(flags.expiring, '--expiring')
  const olderMs = flags.olderThan === undefined ? undefined : parseDuration(flags.olderThan, '--older-than')
  return (view, nowMs) =>
    (matches === undefined || matches(view.lease)) &&
    (heldBy === undefined || view.info.holder === heldBy) &&
    (pinned !== true || view.info.pinned) &&
    (expiringMs === undefined || (!view.info.pinned && expiresInMs(view, nowMs) <= expiringMs)) &&
    (olderMs === undefined || (heldForMs(view, nowMs) ?? 0) >= olderMs)
}

/** `*` is any text and `?` any character, as in a shell. */
export function glob(pattern: string): (text: string) => boolean {
  const source = pattern
    .replaceAll(/[\\^$.|+()[\]{}]/g, String.raw`\$&`)
    .replaceAll('*', '.*')
    .replaceAll('?', '.')
  const expression = new RegExp(`^${source}$`, 'su')
  return (text) => expression.test(text)
}

function limitOf(text: string | undefined): number {
  if (text === undefined) return Number.POSITIVE_INFINITY
  if (!/^[1-9]\d{0,8}$/.test(text)) throw wrongUsage(`--limit must be a whole number from 1 (got ${text})`)
  return Number(text)
}

/** What has changed between two reads; the first one reports what is held. */
class Changes {
  #before = new Map<string, bigint>()

  report(all: readonly LeaseView[], write: (change: object) => void, nowMs: number): void {
    const now = new Map<string, bigint>()
    for (const view of all) {
      now.set(view.lease, view.info.fencingToken)
      if (this.#before.get(view.lease) !== view.info.fencingToken) write({ change: 'held', ...leaseJson(view, nowMs) })
    }
    for (const lease of this.#before.keys()) if (!now.has(lease)) write({ change: 'vacant', lease })
    this.#before = now
  }
}

function compare<T extends string | bigint>(a: T, b: T): number {
  return a < b ? -1 : a > b ? 1 : 0
}
