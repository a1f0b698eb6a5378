/** Says of each lease once that it is the first time, for warnings. */
export class OncePerLease {
  readonly #names = new Set<string>()

  isFirst(lease: string): boolean {
    if (this.#names.has(lease)) return false
    if (this.#names.size >= MOST_NAMED) this.#names.clear()
    this.#names.add(lease)
    return true
  }
}

/** How many leases are remembered; beyond this they are named once more. */
const MOST_NAMED = 1_000
