/// Prompts of about so many tokens: short common English words, which most vocabularies hold as one token each.
///
/// The server's usage tells the exact number; a chat template adds its own.
enum SyntheticText {
  static func words(_ count: Int, using random: inout SplitMix64) -> [String] {
    (0..<count).map { _ in vocabulary[Int(random.next() % UInt64(vocabulary.count))] }
  }

  static let vocabulary = """
    the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one \
    you were all her she there would their we him been has when who will no more if out so up what its about than into \
    them can only other time new some could these two may first then do any like my now over such our man me even most \
    made after also did many off before must well back through years much where your way down should because long each \
    just state those people too mr how little good world make very year still see work men day get here between both \
    life being under never know same last another while us might great old house come since against go came right used \
    take three himself few use during without again place around however home small found thought went say part once \
    general high upon school every does got united left number course war until always away something fact water though \
    less public put think almost hand enough far took head yet better set told nothing night end why called eyes find \
    going look asked later knew point next program city business give group toward young days let room president side \
    social given present several order national possible rather second face per among form important often things \
    looked early white case become large big need four within felt children along saw best church ever least power \
    light thing seemed family interest want area members mind country though turned done open service certain kind \
    problem began different door sense help means whole matter
    """.split(separator: " ").map(String.init)
}
