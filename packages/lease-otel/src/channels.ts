/** Subscriptions to the channels of lease-core (`node:diagnostics_channel`). The listeners never throw into the library. */
import { subscribe, unsubscribe, type TracingChannel } from 'node:diagnostics_channel'
import type { LeaseEvent } from 'lease-core'
import { safely } from './safely.ts'

/** The stages of a tracing channel that are listened to. */
export type Stages<Trace> = {
  readonly [Stage in 'start' | 'end' | 'asyncStart' | 'asyncEnd' | 'error']?: (trace: Trace) => void
}

/** Calls the listener with every event of this type, of every manager and client of the process. Returns how to stop. */
export function onEvent<Type extends LeaseEvent['type']>(
  type: Type,
  listener: (event: LeaseEvent & { readonly type: Type }) => void,
): () => void {
  const name = `lease-core:${type}`
  const safe = safely(listener)
  const onMessage = (message: unknown): void => safe(message as LeaseEvent & { readonly type: Type })
  subscribe(name, onMessage)
  return () => void unsubscribe(name, onMessage)
}

/** Calls these listeners at the stages of every call. Returns how to stop. */
export function onTrace<Trace extends object>(
  channel: TracingChannel<Trace, Trace>,
  stages: Stages<Trace>,
): () => void {
  const ends = Object.entries(stages).map(([stage, listener]) => {
    const safe = safely(listener)
    const onMessage = (message: unknown): void => safe(message as Trace)
    const published = channel[stage as keyof Stages<Trace>]
    published.subscribe(onMessage)
    return () => published.unsubscribe(onMessage)
  })
  return () => ends.forEach((end) => end())
}
