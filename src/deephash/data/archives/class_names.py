"""Class names of published datasets whose files do not give their order."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NUSWIDE21 = _names("""
    sky clouds person water animal grass buildings window plants lake ocean road flowers sunset
    reflection rocks vehicle snow tree beach mountain
""")
"""The most frequent concepts of NUS-WIDE by decreasing frequency, the columns of 21."""

NUSWIDE81 = _names("""
    airport animal beach bear birds boats book bridge buildings cars castle cat cityscape clouds
    computer coral cow dancing dog earthquake elk fire fish flags flowers food fox frost garden
    glacier grass harbor horses house lake leaf map military moon mountain nighttime ocean person
    plane plants police protest railroad rainbow reflection road rocks running sand sign sky snow
    soccer sports statue street sun sunset surf swimmers tattoo temple tiger tower town toy train
    tree valley vehicle water waterfall wedding whales window zebra
""")
"""All concepts of NUS-WIDE in alphabetical order, the columns of 81."""

MIRFLICKR24 = _names("""
    animals baby bird car clouds dog female flower food indoor lake male night people plant_life
    portrait river sea sky structures sunset transport tree water
""")
"""The annotations of MIRFlickr: what is visible in an image."""

MIRFLICKR38 = tuple(
    sorted(
        MIRFLICKR24
        + _names("""
            baby_r1 bird_r1 car_r1 clouds_r1 dog_r1 female_r1 flower_r1 male_r1 night_r1 people_r1
            portrait_r1 river_r1 sea_r1 tree_r1
        """)
    )
)
"""With the annotations of images in which some of these are salient."""

VOC = _names("""
    aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
    pottedplant sheep sofa train tvmonitor
""")
