/** Work in several invocations of Lambda functions under one term: no timer runs between them, and each continues the term of the one before. */
import { Manager, type Client, type ErrClaimDenied } from 'lease-core'

/** What one invocation hands over to the next: plain JSON, for the payload, a queue or a state machine. */
export interface Baton {
  readonly lease: string
  readonly holder: string
  /** A bigint as text. */
  readonly fencingToken: string
}

/** The first invocation: takes the lease for as long as all of the work may take, and starts no timer. */
export async function begin(client: Client, lease: string, holder: string): Promise<Baton | undefined> {
  await using manager = new Manager({ client })
  try {
    const { fencingToken } = await manager.claim(lease, holder, { minutes: 15 })
    return { lease, holder, fencingToken: String(fencingToken) }
  } catch (error) {
    if ((error as ErrClaimDenied).code === 'LEASE_CLAIM_DENIED') return undefined // another works on it
    throw error
  }
}

/** A later invocation: continues the term, works, and releases it. Throws if the term is over. */
export async function finish(
  client: Client,
  baton: Baton,
  work: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  await using manager = new Manager({ client })
  const { lease, holder, fencingToken } = baton
  // The same holder continues its term. If the term has lapsed, this opens another one, which the fencing token shows.
  await using hold = await manager.hold(lease, holder, { duration: { minutes: 5 }, renewEvery: false })
  if (String(hold.fencingToken) !== fencingToken) throw new Error(`the term of ${lease} is over: begin again`)
  await work(hold.signal) // call hold.renew() between steps that may take longer than five minutes together
}
