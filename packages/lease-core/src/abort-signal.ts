/** Abort signals as callers pass them: those of this platform, and those of a polyfill that behave alike. */
import { setMaxListeners } from 'node:events'
import { notValid } from './errors.ts'

/** The rule that this signal breaks, or undefined. */
export function brokenSignalRule(signal: unknown): string | undefined {
  const { aborted, addEventListener, removeEventListener } = Object(signal) as Partial<AbortSignal>
  const sound =
    typeof aborted === 'boolean' && typeof addEventListener === 'function' && typeof removeEventListener === 'function'
  return sound ? undefined : 'must be an AbortSignal'
}

/** @throws ErrNotValid */
export function checkSignal(signal: AbortSignal | undefined): void {
  const rule = signal === undefined ? undefined : brokenSignalRule(signal)
  if (rule !== undefined) throw notValid([{ argument: 'signal', rule, value: signal }])
}

/** Calls back once when the signal aborts; returns how to stop that. */
export function onAbort(signal: AbortSignal | undefined, listener: () => void): () => void {
  if (signal === undefined) return () => {}
  if (signal instanceof EventTarget) setMaxListeners(0, signal) // one signal may end a thousand calls
  signal.addEventListener('abort', listener, { once: true })
  return () => {
    try {
      signal.removeEventListener('abort', listener)
    } catch {
      // One that is not of this platform: the listener does nothing by now, and the call must end.
    }
  }
}
