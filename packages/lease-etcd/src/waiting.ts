/**
 * Claims of those who wait in line (`line.ts` of lease-core). The store counts by itself: the line is a key that everyone
 * who gets in line puts anew, its `version` is his place, and a line that was forgotten begins with a new
 * `create_revision`.
 *
 * One transaction each: who has no place gets in, the line is empty and the lease vacant, or gets in line; who has one
 * takes a vacant lease, tells of it, and ends the line if he was the last in it.
 */
import { granted, refused, type ClaimOp, type Verdict } from 'lease-core'
import type { EtcdKeyValue } from './driver.ts'
import { bodyOf, holdingOf, type Keys } from './layout.ts'
import type { Step } from './requests.ts'
import { foundBy, get, isAbsent, isAtVersion, isOfTerm, isPresent, NO_LEASE, ping, put, remove, when } from './txn.ts'

/** The etcd lease under the line lives at least as long: an idle line is forgotten after that. */
const LINE_MS = 60_000

/** A place as one number: lines of the same lease come one after the other, and so do the places in each. */
const PLACES = 2 ** 20

/** What the step makes of the key that keeps others out. */
type Contend = (kv: EtcdKeyValue | undefined) => Verdict | Step

/** For one without a place. Also where the lease is pinned and vacant he gets in line first; that is rare. */
export function openOrQueue(op: ClaimOp, keys: Keys, contend: Contend): Step {
  const { key, pin, news, line, served } = keys
  const bytes = bodyOf(op)
  return {
    coverMs: Math.max(LINE_MS, op.durationMs),
    opens: true,
    request: (lease) =>
      when(
        [isAbsent(line), isAbsent(key), isAbsent(pin)],
        [put(key, bytes, lease), ...(op.announce === true ? [ping(news, lease)] : [])],
        [ping(line, lease), get(line), get(served), get(key)],
      ),
    next: ({ response_txn: { succeeded, responses } }, revision) => {
      if (succeeded) return granted(holdingOf(op, revision, { since: revision, pinned: false }))
      const held = foundBy(responses, 3)
      // Vacant, and yet nothing was put: others are in line.
      const verdict = held === undefined ? refused(undefined) : contend(held)
      const begun = foundBy(responses, 1)
      if (!('outcome' in verdict) || verdict.outcome !== 'refused' || begun === undefined) return verdict
      const base = Number(begun.create_revision) * PLACES
      const last = placeServed(foundBy(responses, 2))
      return { ...verdict, line: { place: base + Number(begun.version), served: Math.max(base, last) } }
    },
  }
}

/** For one with a place. `pinned`: for a lease that is, and has no key. */
export function openInTurn(
  op: ClaimOp & { readonly place: number },
  keys: Keys,
  contend: Contend,
  { pinned }: { readonly pinned: boolean } = { pinned: false },
): Step {
  const { place, durationMs, announce } = op
  const { key, pin, news, line, served } = keys
  const bytes = bodyOf(op)
  const tidings = Buffer.from(JSON.stringify({ taken: [[op.lease, place, durationMs]] }))
  const lineEnds = when(
    [isOfTerm(line, BigInt(Math.floor(place / PLACES))), isAtVersion(line, place % PLACES)],
    [remove(line)],
    [],
  )
  return {
    coverMs: Math.max(LINE_MS, durationMs),
    opens: true,
    request: (lease) =>
      when(
        [isAbsent(key), pinned ? isPresent(pin) : isAbsent(pin)],
        [
          put(key, bytes, pinned ? NO_LEASE : lease),
          put(served, tidings, lease),
          ...(announce === true ? [ping(news, lease)] : []),
          lineEnds,
        ],
        [get(key), get(served)],
      ),
    next: ({ response_txn: { succeeded, responses } }, revision) => {
      if (succeeded) return granted(holdingOf(op, revision, { since: revision, pinned }))
      const kv = foundBy(responses)
      if (kv === undefined && !pinned) return openInTurn(op, keys, contend, { pinned: true })
      const verdict = contend(kv)
      if (!('outcome' in verdict) || verdict.outcome !== 'refused') return verdict
      return { ...verdict, line: { place, served: placeServed(foundBy(responses, 1)) } }
    },
  }
}

/** @throws when the key was not written by this library */
function placeServed(kv: EtcdKeyValue | undefined): number {
  if (kv === undefined) return 0
  const { taken } = JSON.parse(kv.value.toString()) as { taken?: readonly (readonly unknown[])[] }
  return Number(taken?.[0]?.[1] ?? 0)
}
