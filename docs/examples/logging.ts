/** Logs what happens to leases, with pino. */
import type { Manager } from 'lease-core'
import type { Logger } from 'pino'

const LEVELS = { lost: 'error', warning: 'warn', retrying: 'warn', denied: 'debug', waiting: 'debug' } as const

/** Returns how to stop. */
export function logLeases(manager: Manager, logger: Logger): () => void {
  return manager.events.subscribe((event) => {
    const { type, ...details } = event
    const level = type in LEVELS ? LEVELS[type as keyof typeof LEVELS] : 'info'
    logger[level]?.(details, `lease ${type}`)
  })
}
