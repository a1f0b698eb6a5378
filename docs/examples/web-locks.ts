/** Code that runs in a browser, where `navigator.locks` is, and on servers, where it is over leases. */
import type { Manager } from 'lease-core'
import { webLocks, type WebLocks } from 'lease-recipes'

/** What both have. */
export type Locks = Pick<WebLocks, 'request'>

/** On a server; in a browser it is `navigator.locks`. */
export function serverLocks(manager: Manager): Locks {
  return webLocks(manager, { duration: { seconds: 15 } })
}

/** Refreshes the token once, however many tabs or servers want it. */
export function refreshed(locks: Locks, refresh: () => Promise<string>): Promise<string> {
  return locks.request('refresh-token', () => refresh())
}

/** Reads beside other readers. */
export function readDraft(locks: Locks, read: () => Promise<string>): Promise<string> {
  return locks.request('draft', { mode: 'shared' }, () => read())
}

/** Saves unless somebody else does. */
export function saveDraft(locks: Locks, save: () => Promise<void>): Promise<boolean> {
  return locks.request('draft', { ifAvailable: true }, async (lock) => {
    if (lock === null) return false
    await save()
    return true
  })
}
