/** In a worker: writes down each call with its outcome, and what the worker relies on. */
import { ErrClaimDenied, ErrInvalid, ErrLost, ErrNotHeld, ErrStopped, ErrUnknown, type Held } from 'lease-core'
import { nowMs, record, recordReliance } from '../recorder.ts'
import type { CallOutcome, ChaosEvent, Operation } from './event.ts'

/** What a call is about. */
export interface Asked {
  readonly operation: Operation
  readonly lease: string
  readonly holder: string
  /** The term that it is about. */
  readonly token?: bigint | undefined
  readonly durationMs?: number
}

/** What an answer says, where that is more than was asked. */
export interface Answer {
  readonly token?: bigint | undefined
  readonly lease?: string
  readonly holder?: string
  readonly detail?: string
  /** The call promises this answer where others say no. */
  readonly isRefusal?: boolean
}

/** How a call ended. */
export interface Ended<T> {
  readonly outcome: CallOutcome
  readonly value?: T
}

let calls = 0

/** Writes an event of this worker. */
export function note(event: Omit<ChaosEvent, 'worker' | 'atMs'> & { readonly atMs?: number }): void {
  record({ atMs: nowMs(), ...event })
}

/**
 * Makes the call, and records it. Never rejects: what failed is recorded, and is the outcome.
 *
 * @param isUnknown whether an error that is none of the library's means that the outcome is unknown: those of a driver do
 */
export async function call<T>(
  { operation, lease, holder, token, durationMs }: Asked,
  body: () => Promise<T>,
  answerOf: (value: T) => Answer = () => ({}),
  isUnknown: boolean = false,
): Promise<Ended<T>> {
  const numbered = { call: ++calls, operation }
  const term = token === undefined ? {} : { token: String(token) }
  note({ what: 'sent', ...numbered, lease, holder, ...term, ...(durationMs !== undefined && { durationMs }) })
  try {
    const value = await body()
    const { token: granted, isRefusal = false, ...answer } = answerOf(value)
    const outcome = isRefusal ? 'refused' : 'granted'
    note({
      what: 'answered',
      ...numbered,
      outcome,
      ...answer,
      ...(granted !== undefined && { token: String(granted) }),
    })
    return isRefusal ? { outcome } : { outcome, value }
  } catch (error) {
    const outcome = outcomeOf(error, isUnknown)
    note({ what: 'answered', ...numbered, outcome, detail: wordsOf(error) })
    return { outcome }
  }
}

function outcomeOf(error: unknown, isUnknown: boolean): CallOutcome {
  const isRefused = [ErrClaimDenied, ErrNotHeld, ErrLost, ErrInvalid].some((kind) => error instanceof kind)
  if (isRefused) return 'refused'
  if (error instanceof ErrUnknown) return 'unknown'
  const isAborted = error instanceof DOMException && (error.name === 'TimeoutError' || error.name === 'AbortError')
  if (isAborted || error instanceof ErrStopped) return 'aborted'
  return isUnknown ? 'unknown' : 'failed'
}

/** One line of what was thrown. */
export function wordsOf(error: unknown): string {
  const { name = '', code, message = String(error) } = error as Partial<Error & { readonly code: string }>
  return [name, code, message.split('\n')[0]?.slice(0, 200)].filter((word) => word !== undefined).join(' ')
}

/** What a worker relies on. */
export interface Relied {
  readonly lease: string
  readonly askedMs: number
  readonly weight?: number
}

/**
 * Relies on it for this long and until `isDone`, or until it is lost, and records samples of that and the end of its signal. Release it
 * at once afterwards: the checks take the last sample for the last instant at which its trust window was known.
 */
export async function rely(
  held: Held,
  { lease, askedMs, weight = 1 }: Relied,
  workMs: number,
  isDone: () => boolean = () => true,
): Promise<void> {
  const { fencingToken, signal, holder } = held
  const token = String(fencingToken)
  const aborted = (): void => {
    const isHeld = held.held
    const reason = signal.reason as Partial<Error & { readonly reason: string }>
    const detail = [reason.name, reason.reason].filter((word) => word !== undefined).join(' ')
    note({ what: 'aborted', lease, token, held: isHeld, detail, wallMs: Date.now() - nowMs() })
  }
  signal.addEventListener('abort', aborted, { once: true })
  const fromMs = nowMs()
  const term = { fencingToken, lease, weight, askedMs }
  await recordReliance(
    term,
    () => held.held && (nowMs() - fromMs < workMs || !isDone()),
    10,
    (sampledMs) => ({ holder, trustedUntilMs: nowMs() + held.remaining().toMillis(), wallMs: Date.now() - sampledMs }),
  )
}
