/** Abort signals as callers pass them: those of this platform, those of a polyfill, and those of jsdom, whose globals are its own. */
import { setMaxListeners } from 'node:events'
import { notValid } from './errors.ts'

const UNREADABLE = 'must be readable: to read it throws'

/** The rule that this signal breaks, or undefined. */
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
 * Throws the reason of a signal that has aborted. Signals of a polyfill may lack the method of this name.
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
 * Calls back once when the signal aborts; returns how to stop that.
 *
 * @throws ErrNotValid one cannot listen to the signal
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
      // One that is not of this platform: the listener does nothing by now, and the call must end.
    }
  }
}

/** One signal may end a thousand calls. Node warns of that many listeners, and refuses to be told otherwise of a signal that is not its own. */
export function allowListeners(signal: AbortSignal): void {
  try {
    setMaxListeners(0, signal)
  } catch {
    // Nobody counts the listeners of such a signal.
  }
}

function signalNotValid(value: unknown, rule: string): Error {
  return notValid([{ argument: 'signal', rule, value }])
}
