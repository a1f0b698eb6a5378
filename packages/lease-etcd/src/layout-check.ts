/**
 * Whether this release understands what lies in the namespace: asked once, before anything else is.
 *
 * The namespace carries the number of its layout, put by the first process of a release that knows of it. Without a number it is
 * empty, or in layout 1, which this release understands (`layout.ts`).
 */
import type { EtcdKeyValue, EtcdRange, EtcdRangeAnswer, EtcdTxn, EtcdTxnAnswer } from './driver.ts'
import { foreign, type Layout } from './layout.ts'
import { foundBy, get, isAbsent, NO_LEASE, put } from './txn.ts'

/** The layout that this release writes, and the highest that it understands. */
const LAYOUT = 2

/** How the check is sent. */
export interface LayoutStore {
  range(range: EtcdRange): Promise<EtcdRangeAnswer>
  txn(txn: EtcdTxn): Promise<EtcdTxnAnswer>
}

/** @throws where a later release has written a layout that this one does not understand */
export async function checkLayout({ version }: Layout, store: LayoutStore): Promise<void> {
  const [kv] = (await store.range({ key: version })).kvs
  if (kv !== undefined) return mustBeUnderstood(kv)
  const mark = { compare: [isAbsent(version)], success: [put(version, Buffer.from(String(LAYOUT)), NO_LEASE)] }
  // A server that is full takes no puts, but releases, which must not wait for this. The next process puts it.
  const answer = await store.txn({ ...mark, failure: [get(version)] }).catch(() => undefined)
  const other = answer?.succeeded === false ? foundBy(answer.responses) : undefined
  if (other !== undefined) mustBeUnderstood(other)
}

function mustBeUnderstood({ key, value }: EtcdKeyValue): void {
  const layout = Number(value.toString())
  if (!Number.isSafeInteger(layout) || layout < 1) throw foreign(key)
  if (layout <= LAYOUT) return
  throw new Error(
    `a later release of lease-etcd has written this namespace (layout ${layout} in the key ${JSON.stringify(key.toString())}; this release understands layouts up to ${LAYOUT}): update lease-etcd in this process, or give it another namespace`,
  )
}
