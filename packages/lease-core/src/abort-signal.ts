/** Abort signals that callers pass: of this platform, of a polyfill, or of jsdom, which has its own globals. */
import { setMaxListeners } from 'node:events'
import { notValid } from './errors.ts'

const UNREADABLE = 'must be readable: to read it throws'

/** Returns the rule that this signal breaks, or undefined. */
export function brokenSignalRule(signal: unknown): string | undefined {
  try {
    const { aborted, addEventListener, removeEventListener } = Object(signal) as Partial<AbortSignal>
    const sound =
      typeof aborted === 'boolean' &&
      typeof addEventListener === 'function' &&
      typeof removeEventListener === 'function'
    return sound ? undefined : 'must be an AbortSignal'
  } catch {
    return UNREADABLE
  }
}

/** @throws ErrNotValid */
export function checkSignal(signal: AbortSignal | undefined): void {
  const rule = signal === undefined ? undefined : brokenSignalRule(signal)
  if (rule !== undefined) throw signalNotValid(signal, rule)
}

/**
 * Throws the signal's reason if the signal has aborted. Works also for polyfills without a method of this name.
 *
 * @throws ErrNotValid the signal cannot be read
 */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  let reason: unknown
  try {
    if (signal?.aborted !== true) return
    reason = signal.reason
  } catch {
    throw signalNotValid(signal, UNREADABLE)
  }
  throw reason
}

/** Whether this is the reason of a signal that has aborted. */
export function isReasonOf(signal: AbortSignal | undefined, error: unknown): boolean {
  try {
    return signal?.aborted === true && Object.is(error, signal.reason)
  } catch {
    return false
  }
}

/**
 * Calls the listener once when the signal aborts. Returns a function that removes the listener. A signal that has aborted already does not
 * call it.
 *
 * @throws ErrNotValid `addEventListener` of the signal throws
 */
export function onAbort(signal: AbortSignal | undefined, listener: () => void): () => void {
  if (signal === undefined) return () => {}
  allowListeners(signal)
  try {
    signal.addEventListener('abort', listener, { once: true })
  } catch {
    throw signalNotValid(signal, 'must be an AbortSignal: to listen to it throws')
  }
  return () => {
    try {
      signal.removeEventListener('abort', listener)
    } catch {
      // Not a signal of this platform: the listener does nothing any more, and the call must end.
    }
  }
}

/** Creates a controller whose signal is handed out: it may have any number of listeners, and Node does not warn of them. */
export function abortController(): AbortController {
  const controller = new AbortController()
  allowListeners(controller.signal)
  return controller
}

/** Allows any number of listeners on this signal: one signal may end a thousand calls, and Node warns of that many. */
function allowListeners(signal: AbortSignal): void {
  try {
    setMaxListeners(0, signal)
  } catch {
    // Not a signal of Node: its listeners are not counted.
  }
}

function signalNotValid(value: unknown, rule: string): Error {
  return notValid([{ argument: 'signal', rule, value }])
}
