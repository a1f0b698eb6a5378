/**
 * What the message of a store says whose hints are text. In one of those that go to everyone who watches the namespace, a name
 * stands for a lease; in one that goes to a single client a list may stand for it, which tells of a ticket:
 *
 *     ["db", …]                            vacated                    {"vacated": [["db"], ["db", ticket, ahead], …]}
 *     {"changed": ["db", …]}               changed
 *     {"taken": [["db", ticket, ms], …]}   taken by one who waited    {"taken": [["db", ticket, ms, own ticket, ahead], …]}
 *
 * A ticket is a number, or one in decimal digits. Anything else is not ours to understand, so all may have changed.
 */
import type { LeaseChange } from './client.ts'

export function changesIn(message: string): LeaseChange[] {
  try {
    const content = JSON.parse(message) as Readonly<Record<'vacated' | 'changed' | 'taken', unknown>> | null
    if (isListOf(content, isName)) return content.map((lease) => ({ kind: 'vacated', lease }))
    const changes: LeaseChange[] = []
    const { vacated, changed, taken } = content ?? {}
    if (isListOf(vacated, isTold)) {
      for (const [lease, place, ahead] of vacated) {
        changes.push({ kind: 'vacated', lease, to: place === undefined ? undefined : placeOf(place, ahead) })
      }
    }
    if (isListOf(changed, isName)) for (const lease of changed) changes.push({ kind: 'changed', lease })
    if (isListOf(taken, isTold)) {
      for (const [lease, place, durationMs, own, ahead] of taken) {
        const to = own === undefined ? undefined : placeOf(own, ahead)
        changes.push({ kind: 'taken', lease, place: Number(place ?? 0), durationMs: Number(durationMs ?? 0), to })
      }
    }
    if (changes.length > 0) return changes
  } catch {
    // not JSON
  }
  return [{ kind: 'resync' }]
}

type Numeric = string | number
type Told = [lease: string, first?: Numeric, second?: Numeric, third?: Numeric, fourth?: Numeric]

function placeOf(place: Numeric, ahead: Numeric | undefined): { place: number; ahead: number } {
  return { place: Number(place), ahead: Number(ahead ?? 0) }
}

function isListOf<T>(list: unknown, isItem: (item: unknown) => item is T): list is T[] {
  return Array.isArray(list) && list.every(isItem)
}

function isName(item: unknown): item is string {
  return typeof item === 'string'
}

function isTold(item: unknown): item is Told {
  if (!Array.isArray(item) || typeof item[0] !== 'string') return false
  return item.slice(1).every((word) => (typeof word === 'number' || typeof word === 'string') && Number(word) >= 0)
}
