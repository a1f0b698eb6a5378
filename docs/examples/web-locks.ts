/** The same code runs in a browser, on `navigator.locks`, and on servers, on leases. */
import type { Manager } from 'lease-core'
import { webLocks, type WebLocks } from 'lease-recipes'

/** The part that both provide. */
export type Locks = Pick<WebLocks, 'request'>

/** For a server. In a browser use `navigator.locks`. */
export function serverLocks(manager: Manager): Locks {
  return webLocks(manager, { duration: { seconds: 15 } })
}

/** Refreshes the token in one tab or server at a time. */
export function refreshed(locks: Locks, refresh: () => Promise<string>): Promise<string> {
  return locks.request('refresh-token', () => refresh())
}

/** Reads beside other readers. */
export function readDraft(locks: Locks, read: () => Promise<string>): Promise<string> {
  return locks.request('draft', { mode: 'shared' }, () => read())
}

/** Saves, unless another holds the lock. */
export function saveDraft(locks: Locks, save: () => Promise<void>): Promise<boolean> {
  return locks.request('draft', { ifAvailable: true }, async (lock) => {
    if (lock === null) return false
    await save()
    return true
  })
}
