/**
 * Parses hints of a store that sends them as text. In a message to all watchers of a namespace, a name stands for a lease. In a message to a
 * single client, a list may stand for it, with the number of a ticket:
 *
 *     ["db", …]                            vacated                    {"vacated": [["db"], ["db", ticket, ahead], …]}
 *     {"changed": ["db", …]}               changed
 *     {"taken": [["db", ticket, ms], …]}   taken by one who waited    {"taken": [["db", ticket, ms, own ticket, ahead], …]}
 *
 * A ticket or a time is a number, or a string of decimal digits. Any other message means that everything may have changed: `resync`.
 */
import type { LeaseChange } from './client.ts'

/** Returns the changes in a message; of an unknown message one `resync`. Never throws. */
export function changesIn(message: string): LeaseChange[] {
  try {
    const content = JSON.parse(message) as Readonly<Record<'vacated' | 'changed' | 'taken', unknown>> | null
    if (isListOf(content, isName)) return content.map((lease) => ({ kind: 'vacated', lease }))
    const changes: LeaseChange[] = []
    const { vacated = [], changed = [], taken = [] } = content ?? {}
    if (isListOf(vacated, isVacancy) && isListOf(changed, isName) && isListOf(taken, isGrant)) {
      for (const [lease, place, ahead] of vacated) {
        changes.push({ kind: 'vacated', lease, to: place === undefined ? undefined : placeOf(place, ahead) })
      }
      for (const lease of changed) changes.push({ kind: 'changed', lease })
      for (const [lease, place, durationMs, own, ahead] of taken) {
        const to = own === undefined ? undefined : placeOf(own, ahead)
        changes.push({ kind: 'taken', lease, place: Number(place), durationMs: Number(durationMs), to })
      }
      if (changes.length > 0) return changes
    }
  } catch {
    // not JSON
  }
  return [{ kind: 'resync' }]
}

type Numeric = string | number
type Vacancy = [lease: string, place?: Numeric, ahead?: Numeric]
type Grant = [lease: string, place: Numeric, durationMs: Numeric, own?: Numeric, ahead?: Numeric]

function placeOf(place: Numeric, ahead: Numeric | undefined): { place: number; ahead: number } {
  return { place: Number(place), ahead: Number(ahead ?? 0) }
}

function isListOf<T>(list: unknown, isItem: (item: unknown) => item is T): list is T[] {
  return Array.isArray(list) && list.every(isItem)
}

function isName(item: unknown): item is string {
  return typeof item === 'string'
}

function isVacancy(item: unknown): item is Vacancy {
  return isRecord(item, 1, 3)
}

function isGrant(item: unknown): item is Grant {
  return isRecord(item, 3, 5)
}

/** A name and numbers, of one of these lengths in all. */
function isRecord(item: unknown, ...lengths: readonly number[]): boolean {
  if (!Array.isArray(item) || !lengths.includes(item.length)) return false
  return isName(item[0]) && item.slice(1).every(isNumeric)
}

function isNumeric(word: unknown): word is Numeric {
  return typeof word === 'string' ? DIGITS.test(word) : typeof word === 'number' && Number.isFinite(word) && word >= 0
}

const DIGITS = /^\d{1,16}(\.\d+)?$/
