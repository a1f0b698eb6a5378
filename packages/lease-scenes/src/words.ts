/** Short words for operations on a substrate, for what becomes of them, and for waiting. */
import type {
  Call,
  ClaimOp,
  ExpireOp,
  ExtendOp,
  Holding,
  Op,
  PinOp,
  ReleaseOp,
  Substrate,
  UnpinOp,
  Verdict,
} from 'lease-core/adapter'
import { until } from 'lease-servers'

/** In whose name the words are said: a nonce begins with it. */
const CLIENT = 'client-words'

/** How long an operation may take, where nothing else is said: longer than any machine stalls. */
const PATIENT_MS = 60_000

let count = 0

/** A name that no other test uses. */
export function unique(word: string): string {
  return `${word}-${process.pid}-${++count}`
}

export function newCall(more: Partial<Call> = {}): Call {
  return {
    signal: new AbortController().signal,
    timeoutMs: PATIENT_MS,
    client: CLIENT,
    epoch: 0,
    sentMs: undefined,
    notAfterMs: undefined,
    ...more,
  }
}

export function claim(lease: string, holder: string, durationMs: number, more: Partial<ClaimOp> = {}): ClaimOp {
  return {
    kind: 'claim',
    lease,
    holder,
    durationMs,
    nonce: `${CLIENT}${unique('nonce')}`,
    value: undefined,
    lapsed: undefined,
    ...more,
  }
}

/** Of the term that is `seen`, unless `more` names another. */
export function extend(lease: string, holder: string, durationMs: number, more: Partial<ExtendOp> = {}): ExtendOp {
  return {
    kind: 'extend',
    lease,
    holder,
    durationMs,
    fencingToken: more.seen?.fencingToken ?? 0n,
    value: undefined,
    seen: undefined,
    ...more,
  }
}

export function release(lease: string, holder: string, more: Partial<ReleaseOp> = {}): ReleaseOp {
  return { kind: 'release', lease, holder, fencingToken: undefined, nonce: undefined, ...more }
}

export function expire(lease: string, lapsed?: string): ExpireOp {
  return { kind: 'expire', lease, lapsed }
}

export function pin(lease: string, entity: string, generation: string = unique('pin')): PinOp {
  return { kind: 'pin', lease, entity, generation }
}

export function unpin(lease: string, entity: string, generation: string): UnpinOp {
  return { kind: 'unpin', lease, entity, generation }
}

/** The verdict of one operation; `contended` is asked again, as core does. @throws what made it unknown */
export async function settle(substrate: Substrate, op: Op): Promise<Verdict> {
  for (;;) {
    const [verdict] = await substrate.apply([op], newCall())
    if (verdict === undefined) throw new Error('no verdict')
    if (verdict.outcome === 'unknown') throw verdict.cause
    if (verdict.outcome !== 'contended') return verdict
    await sleep(1 + Math.random() * 5)
  }
}

/** The holding that this granted operation left. */
export async function grant(substrate: Substrate, op: Op): Promise<Holding> {
  const { outcome, holding } = await settle(substrate, op)
  if (outcome !== 'granted' || holding === undefined) throw new Error(`${op.kind} ${op.lease} was ${outcome}`)
  return holding
}

export async function readOne(substrate: Substrate, lease: string): Promise<Holding | undefined> {
  return (await substrate.read([lease], newCall())).get(lease)
}

/**
 * For how long those in a race claim: so briefly that many are too late to write, and one in twenty for longer, as nobody is
 * in time within the shorter one on a busy machine.
 */
export function briefMs(): number {
  return Math.random() < 0.05 ? 150 : 15
}

/** What the call rejects with. */
export async function caught(call: Promise<unknown>): Promise<Error> {
  try {
    await call
  } catch (error) {
    return error as Error
  }
  throw new Error('it did not reject')
}

/** Whether the call resolves. */
export function succeeds(call: Promise<unknown>): Promise<boolean> {
  return call.then(
    () => true,
    () => false,
  )
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** Resolves once the condition holds; mocha's limit is the only one, and its report then says `what` was awaited. */
export async function eventually(
  condition: () => boolean | Promise<boolean>,
  what: string = String(condition),
): Promise<void> {
  await until(what, condition)
}
