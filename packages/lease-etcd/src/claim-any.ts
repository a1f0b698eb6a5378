/**
 * One claim of any of several leases: read them all, then create the first that is vacant, if that can still be done.
 *
 * That a holder gets no second one is the work of a mark, a key of this holder in this namespace that every such claim
 * puts: of two that have read the same mark only one finds it unchanged. Rivals meet only where they want the same
 * lease. The mark lies on the same etcd lease as the lease's key and goes by itself.
 */
import type { AnyVerdict, ClaimAnyOp, Holding } from 'lease-core'
import type { EtcdAnswer } from './driver.ts'
import { bodyOf, foundIn, type Layout } from './layout.ts'
import type { Deadline, Outcome, Requests, Step } from './requests.ts'
import { foundBy, get, isAbsent, isUnchanged, NO_LEASE, ping, put, remove, when } from './txn.ts'

/** How many leases are read in one transaction, beside the mark. */
const PART = 120
const MAX_ROUNDS = 6

/** @throws what the driver throws, explained: then the outcome is unknown */
export async function claimAny(
  op: ClaimAnyOp,
  layout: Layout,
  { requests, deadline }: { readonly requests: Requests; readonly deadline: Deadline },
): Promise<AnyVerdict> {
  const { leases, holder, durationMs, nonce, value, lapsed } = op
  const mark = layout.markOf(holder)
  for (let round = 1; round <= MAX_ROUNDS; round++) {
    // 1. The mark is read first: whoever puts it later is noticed.
    const holdings = new Map<string, Holding>()
    let markRevision = '0'
    let mine: { readonly lease: string; readonly nonce: string } | undefined
    for (let from = 0; from < leases.length; from += PART) {
      const part = leases.slice(from, from + PART)
      const keys = [mark, ...part.map((lease) => layout.lease(lease))]
      const outcomes = await requests.round(
        keys.map((key, index) => ({ index, step: reading(key) })),
        deadline,
      )
      const found = outcomes.map((outcome) => foundBy([answerOf(outcome)]))
      if (from === 0) markRevision = found[0]?.mod_revision ?? '0'
      for (const [index, lease] of part.entries()) {
        const kv = found[index + 1]
        if (kv === undefined) continue
        const { body, holding } = foundIn(kv)
        holdings.set(lease, holding)
        const over = !holding.pinned && holding.version === lapsed.get(lease)
        if (holding.holder === holder && !over) mine ??= { lease, nonce: body.nonce }
      }
    }
    if (mine !== undefined) {
      return { outcome: mine.nonce === nonce ? 'granted' : 'refused', lease: mine.lease, holdings }
    }

    // 2. The first that is free; one that has lapsed is vacated first.
    const lease = leases.find((one) => {
      const held = holdings.get(one)
      return held === undefined || (!held.pinned && held.version === lapsed.get(one))
    })
    if (lease === undefined) return { outcome: 'refused', lease: undefined, holdings }
    const { key, pin, news } = layout.keysOf(lease)
    const version = holdings.get(lease)?.version
    const step: Pick<Step, 'coverMs' | 'opens' | 'request'> =
      version === undefined
        ? {
            coverMs: durationMs,
            opens: true,
            request: (etcdLease) => {
              const body = bodyOf({ holder, durationMs, nonce, value })
              const beside = [ping(mark, etcdLease)]
              if (op.announce === true) beside.push(ping(news, etcdLease))
              return when(
                [isAbsent(key), isUnchanged(mark, markRevision)],
                [...beside, when([isAbsent(pin)], [put(key, body, etcdLease)], [put(key, body, NO_LEASE)])],
                [],
              )
            },
          }
        : { coverMs: undefined, request: () => when([isUnchanged(key, version), isAbsent(pin)], [remove(key)], []) }

    // 3. Only what is sent here changes anything; where it did not, all is read anew.
    const [outcome] = await requests.round([{ index: 0, step: { ...step, next: neverAsked } }], deadline)
    if (outcome !== undefined && 'late' in outcome) return { outcome: 'late', lease: undefined, holdings: new Map() }
    const { succeeded, responses } = answerOf(outcome).response_txn
    if (!succeeded || version !== undefined) continue
    const pinned = responses[op.announce === true ? 2 : 1]?.response_txn.succeeded === false
    const { revision } = outcome as { readonly revision: string }
    const holding = {
      holder,
      fencingToken: BigInt(revision),
      nonce,
      remainingMs: durationMs,
      value,
      pinned,
      version: revision,
    }
    return { outcome: 'granted', lease, holdings: holdings.set(lease, holding) }
  }
  return { outcome: 'contended', lease: undefined, holdings: new Map() }
}

function reading(key: Buffer): Step {
  return { coverMs: undefined, request: () => get(key), next: neverAsked }
}

function answerOf(outcome: Outcome | undefined): EtcdAnswer {
  if (outcome === undefined || !('answer' in outcome))
    throw (outcome as { readonly error?: unknown } | undefined)?.error
  return outcome.answer
}

function neverAsked(): never {
  throw new Error('the answer is read by whoever sent the step')
}
