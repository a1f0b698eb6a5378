/**
 * Work under a lock. The caller gets the outcome of the work: a failed release hides neither result nor error.
 *
 * After node-redlock's `using(resources, duration, routine)`.
 */
import { brokenSignalRule, callListener, hasMethods, throwIfAborted, traceWork, warn, type Held } from 'lease-core'
import { OptionReader } from 'lease-core/adapter'
import { LinkedSignal, whenAborted } from './or-aborted.ts'

/** What work can run under: every `Held`, for instance a `Hold` or a `FencedLock`. */
export interface Usable {
  readonly fencingToken: bigint
  /** Aborts when the lock is lost. */
  readonly signal: AbortSignal
  /** @throws when the lock is not held */
  assertHeld(): void
  release(): Promise<unknown>
}

/** What the work is called with. */
export interface UsingScope<L extends Usable> {
  /** Aborts when the lock is lost, when the work is over, and with `options.signal`. */
  readonly signal: AbortSignal
  /** For every write to what the lock protects. */
  readonly fencingToken: bigint
  readonly lock: L
}

/** Options of `using`. */
export interface UsingOptions {
  /** Aborts the signal of the work. The lock is released when the work has ended. */
  readonly signal?: AbortSignal | undefined
  /** Called with the error of a failed release. @default a warning of the process */
  readonly releaseFailed?: ((error: unknown) => void) | undefined
}

/**
 * Does the work while the lock is held, then releases the lock in any case, and settles as the work did.
 *
 * Waits for the work, also after its signal has aborted: the lock is released only when the work has ended. After a loss the call still
 * resolves with what the work returns. If such a result must not count, end the work with `lock.assertHeld()`.
 *
 * @param lock acquired and awaited. It is released also when another argument is not valid
 * @throws ErrLost     the lock was over before the work began
 * @throws ErrNotValid an argument breaks a rule; the work has not begun
 */
export async function using<L extends Usable, T>(
  lock: L,
  work: (scope: UsingScope<L>) => T | PromiseLike<T>,
  options: UsingOptions = {},
): Promise<Awaited<T>> {
  const reader = readUsing(lock, work, options)
  if (reader.problems.length > 0) {
    // This call owns the lock: without a release it would stay held.
    if (hasMethods(lock, 'release')) await release(lock, () => {})
    else void releaseLate(lock)
    reader.finish()
  }
  const { signal, releaseFailed = warnOfRelease } = reader.read
  let letGo = (): void => {}
  let stopListening = (): void => {}
  try {
    const until = new LinkedSignal(signal)
    letGo = () => until.letGo()
    stopListening = whenAborted(lock.signal, () => until.abort(lock.signal.reason))
    lock.assertHeld()
    throwIfAborted(signal)
    const { lease, holder }: Partial<Pick<Held & { lease: string }, 'lease' | 'holder'>> = lock as object
    const { fencingToken } = lock
    const about = { lease, holder, fencingToken, signal: lock.signal }
    return await traceWork(about, async () => work({ signal: until.signal, fencingToken, lock }))
  } finally {
    letGo()
    await release(lock, releaseFailed)
    stopListening()
  }
}

/** Releases a lock that was passed as a promise. */
async function releaseLate(lock: unknown): Promise<void> {
  try {
    const late = await lock
    if (hasMethods(late, 'release')) await (late as Usable).release()
  } catch {} // the caller gets the ErrNotValid
}

async function release(lock: Usable, failed: (error: unknown) => void): Promise<void> {
  try {
    await lock.release()
  } catch (error) {
    callListener(async () => failed(error), WARNING) // async: a promise of another realm may reject, too
  }
}

function readUsing(lock: unknown, work: unknown, options: UsingOptions): OptionReader<UsingOptions> {
  const reader = new OptionReader(options, ['signal', 'releaseFailed'], { arguments: { lock, work } })
  const { signal: ofLock } = Object(lock) as { signal?: unknown }
  const isUsable = hasMethods(lock, 'assertHeld', 'release') && brokenSignalRule(ofLock) === undefined
  reader.must('lock', isUsable, 'must be a lock that was acquired (await it), or a Hold')
  reader.must('work', typeof work === 'function', 'must be a function')
  reader.signal()
  reader.function('releaseFailed')
  return reader
}

const WARNING = 'LeaseReleaseWarning'

function warnOfRelease(error: unknown): void {
  warn(error, WARNING)
}
