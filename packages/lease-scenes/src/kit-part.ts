/** The part of the conformance kit that the test command runs on a store. */
import { isMatrix } from 'lease-servers'
import { describe } from 'mocha'

/**
 * A `describe` for the kit that leaves out these suites, for they try core more than the adapter; the matrix runs them here, and the
 * test command on other stores.
 */
export function describeWithout(suites: readonly string[], store: string): (title: string, body: () => void) => void {
  return (title, body) => {
    if (isMatrix() || !suites.includes(title)) describe(title, body)
    else describe.skip(`${title} (skipped: only the matrix runs it on ${store})`, body)
  }
}
