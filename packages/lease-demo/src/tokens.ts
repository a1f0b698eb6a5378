/** Fencing tokens for readers: on some stores they have sixteen digits, and most of them are the same in one run. */

/** Shows fencing tokens as their distance from one of this run. The order stays, and so do the differences. */
export class TokenScale {
  readonly #from: bigint

  constructor(from: bigint) {
    this.#from = from
  }

  /** For example `#2,106,312`. A lower token has a minus sign. */
  show(fencingToken: bigint): string {
    return `#${(fencingToken - this.#from).toLocaleString('en')}`
  }

  /** The text with these fencing tokens shown in that way. */
  showIn(text: string, fencingTokens: Iterable<bigint>): string {
    let shown = text
    for (const token of fencingTokens) shown = shown.replaceAll(new RegExp(`#?\\b${token}\\b`, 'g'), this.show(token))
    return shown
  }
}
