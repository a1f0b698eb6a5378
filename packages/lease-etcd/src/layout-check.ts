/**
 * Whether this release understands what lies in the namespace, and nobody else's keys lie there: asked once, before anything else is.
 *
 * The namespace carries the number of its layout, put by the first process of a release that knows of it. Without a number it is
 * empty, or in layout 1, which this release understands (`layout.ts`).
 *
 * A namespace whose keys lie among those of another one (prefix `lease/a/l/` beside the namespace `a` of `lease/`) would
 * meet it: the same key would be a lease of both. Whichever of the two is used second finds the number of the other.
 */
import { StoreFailure } from 'lease-core/adapter'
import type { EtcdCompare, EtcdKeyValue, EtcdRequest, EtcdTxn, EtcdTxnAnswer } from './driver.ts'
import { endOf, foreign, KINDS, type Layout } from './layout.ts'
import { foundBy, get, isAbsent, NO_LEASE, put, together } from './txn.ts'

/** The layout that this release writes, and the highest that it understands. */
const LAYOUT = 2
/** How often it is looked again where somebody else has come first. */
const MAX_ROUNDS = 3
/** Keys in one answer. */
const PAGE = 1_000
/** What follows the root in the key of the number of a namespace whose keys lie among those of this one. */
const VERSION_INSIDE = new RegExp(`^[${[...KINDS].join('')}]/(.*/)?v$`, 's')
/** Numbers of namespaces that are read in one transaction. */
const PART = 120

/** How the check is sent. */
export interface LayoutStore {
  txn(txn: EtcdTxn): Promise<EtcdTxnAnswer>
}

/** @throws where a later release has written a layout that this one does not understand, or another namespace is in the way */
export async function checkLayout({ root, version, outer }: Layout, store: LayoutStore): Promise<void> {
  const range = { key: root, range_end: endOf(root), keys_only: true }
  for (let round = 1; round <= MAX_ROUNDS; round++) {
    const reads = [version, ...outer].map(get)
    const { responses } = await store.txn(together([...reads, { request_range: { ...range, limit: 1 } }]))
    for (const [index, key] of outer.entries()) mustNotMeet(foundBy(responses, 1 + index), key)
    const kv = foundBy(responses)
    if (kv !== undefined) return mustBeUnderstood(kv)

    const isEmpty = foundBy(responses, reads.length) === undefined
    if (!isEmpty) await mustHaveNoneInside(range, store)
    const nobodyCame: EtcdCompare[] = [
      isEmpty ? { ...isAbsent(root), range_end: range.range_end } : isAbsent(version),
      ...outer.map(isAbsent),
    ]
    // A server that is full takes no puts, but releases, which must not wait for this. The next process puts it.
    const answer = await store
      .txn({ compare: nobodyCame, success: [put(version, Buffer.from(String(LAYOUT)), NO_LEASE)], failure: [] })
      .catch(() => undefined)
    if (answer?.succeeded !== false) return
  }
}

function mustBeUnderstood({ key, value }: EtcdKeyValue): void {
  const layout = numberIn(value)
  if (layout === undefined) throw foreign(key)
  if (layout <= LAYOUT) return
  throw new StoreFailure(
    `a later release of lease-etcd has written this namespace (layout ${layout} in the key ${JSON.stringify(key.toString())}; this release understands layouts up to ${LAYOUT}): update lease-etcd in this process, or give it another namespace`,
    { isSetUp: true },
  )
}

/** Looks for the numbers of other namespaces among the keys of this one, page by page. */
async function mustHaveNoneInside(range: NonNullable<EtcdRequest['request_range']>, store: LayoutStore): Promise<void> {
  for (let from: Buffer | undefined = range.key; from !== undefined;) {
    const { responses }: EtcdTxnAnswer = await store.txn(
      together([{ request_range: { ...range, key: from, limit: PAGE } }]),
    )
    const kvs: readonly EtcdKeyValue[] = responses[0]?.response_range.kvs ?? []
    const keys = kvs.map(({ key }) => key).filter((key) => VERSION_INSIDE.test(key.toString('utf8', range.key.length)))
    for (let at = 0; at < keys.length; at += PART) {
      const part = keys.slice(at, at + PART)
      const answer = await store.txn(together(part.map(get)))
      for (const [index, key] of part.entries()) mustNotMeet(foundBy(answer.responses, index), key)
    }
    const last: Buffer | undefined = kvs.length < PAGE ? undefined : kvs.at(-1)?.key
    from = last && Buffer.concat([last, Buffer.alloc(1)])
  }
}

/** A key that looks like that of a number may also be one of a lease of this name. */
function mustNotMeet(kv: EtcdKeyValue | undefined, key: Buffer): void {
  if (kv === undefined || numberIn(kv.value) === undefined) return
  throw new StoreFailure(
    `another namespace of lease-etcd lies in the way (its key ${JSON.stringify(key.toString())}), so leases of both might share a key: choose a prefix that is neither inside of that namespace nor around it`,
    { isSetUp: true },
  )
}

function numberIn(value: Buffer): number | undefined {
  const layout = Number(value.toString())
  return value.length > 0 && Number.isSafeInteger(layout) && layout >= 1 ? layout : undefined
}
